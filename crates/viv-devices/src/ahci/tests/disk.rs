use super::*;

const READ_SECTORS: u8 = 0x20;
const WRITE_SECTORS_EXT: u8 = 0x34;
const WRITE_DMA_EXT: u8 = 0x35;
const WRITE_DMA: u8 = 0xca;
const READ_QUEUED: u8 = 0x60;
const WRITE_QUEUED: u8 = 0x61;

struct Bench {
    driver: Driver,
    file: tempfile::NamedTempFile,
}

impl Bench {
    fn new(access: Access) -> Self {
        let file = file(SIZE);
        Self { driver: Driver::one(disk(&file, access)), file }
    }

    fn sector(&self, sector: usize) -> Vec<u8> {
        std::fs::read(self.file.path()).unwrap()[sector * 512..][..512].to_vec()
    }

    fn identify(&mut self) -> Vec<u16> {
        assert_eq!(self.driver.ata(Ata::new(IDENTIFY, 0, 0), &[(DATA, 512)]), 0x50);
        let bytes = self.driver.bytes(DATA, 512);
        assert_eq!(bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0, "checksum");
        bytes.chunks(2).map(|word| u16::from_le_bytes([word[0], word[1]])).collect()
    }

    /// Issues a command that fails, and gives the error register.
    fn fail(&mut self, ata: Ata, regions: &[(u64, u32)]) -> u32 {
        let task_file = self.driver.ata(ata, regions);
        assert_eq!((task_file & 0xff, self.driver.port(0, px::CI)), (0x51, 1 << 3));
        self.driver.restart(0);
        task_file >> 8
    }
}

#[test]
fn it_identifies_itself() {
    let mut bench = Bench::new(Access::ReadWrite);
    let words = bench.identify();
    let text = |range: std::ops::Range<usize>| {
        words[range].iter().flat_map(|word| word.to_be_bytes()).map(char::from).collect::<String>()
    };
    assert_eq!((text(10..20).as_str(), text(27..47).trim_end()), ("serial-of-more-than-", "Vivarium disk"));
    assert_eq!((words[60], words[61], words[100], words[101]), (2048, 0, 2048, 0));
    assert_eq!((words[75], words[76] & 1 << 8, words[169]), (31, 1 << 8, 1));
    assert_eq!(bench.driver.fis(0, 0x20, 20)[..4], [0x5f, 0x60, 0x58, 0], "a PIO setup FIS to the host");
    assert_eq!(bench.driver.fis(0, 0x20, 20)[15..18], [0x50, 0, 2]);
    assert_eq!((bench.driver.port(0, px::IS), bench.driver.moved(0, 3)), (0b10, 512));
    assert_eq!(Bench::new(Access::ReadOnly).identify()[169], 0, "no TRIM");
}

#[test]
fn sectors_are_read_into_scattered_memory() {
    let mut bench = Bench::new(Access::ReadWrite);
    let regions = [(DATA, 512), (DATA + 0x1000, 2), (DATA + 0x2000, 1022)];
    assert_eq!(bench.driver.ata(Ata::new(READ_DMA_EXT, 5, 3), &regions), 0x50);
    assert_eq!((bench.driver.moved(0, 3), bench.driver.port(0, px::IS)), (1536, 1));
    assert_eq!(bench.driver.bytes(DATA, 4), [5, 0, 0, 0]);
    assert_eq!(
        (bench.driver.bytes(DATA + 0x1000, 2), bench.driver.bytes(DATA + 0x2000, 2)),
        (vec![6, 0], vec![0, 0])
    );
    assert_eq!(bench.driver.bytes(DATA + 0x2000 + 510, 4), [7, 0, 0, 0]);
    // 28-bit addresses by PIO: all sectors that a count of zero means.
    assert_eq!(bench.driver.ata(Ata::new(READ_SECTORS, 1792, 0), &[(DATA, 256 * 512)]), 0x50);
    assert_eq!(bench.driver.bytes(DATA + 255 * 512, 4), 2047_u32.to_le_bytes());
}

#[test]
fn sectors_are_written() {
    let mut bench = Bench::new(Access::ReadWrite);
    bench.driver.put(DATA, &[7; 1024]);
    assert_eq!(bench.driver.ata(Ata::new(WRITE_DMA_EXT, 10, 2), &[(DATA, 1024)]), 0x50);
    assert_eq!(bench.driver.ata(Ata::new(WRITE_DMA, 20, 1), &[(DATA, 512)]), 0x50);
    assert_eq!(bench.driver.ata(Ata::new(WRITE_SECTORS_EXT, 30, 1), &[(DATA, 512)]), 0x50);
    assert_eq!(bench.driver.fis(0, 0x20, 2), [0x5f, 0], "a PIO setup FIS from the host");
    assert_eq!(bench.driver.port(0, px::IS), 1);
    for sector in [10, 11, 20, 30] {
        assert_eq!(bench.sector(sector), [7; 512]);
    }
    assert_eq!(bench.sector(12)[..5], [12, 0, 0, 0, 0x5a]);
    for flush in [0xe7, 0xea] {
        assert_eq!(bench.driver.ata(Ata::new(flush, 0, 0), &[]), 0x50);
    }
}

#[test]
fn queued_commands_end_by_set_device_bits() {
    let mut bench = Bench::new(Access::ReadWrite);
    let driver = &mut bench.driver;
    driver.put(DATA, &[9; 512]);
    driver.prepare(0, 4, &Ata::queued(WRITE_QUEUED, 4, 40, 1).fis(true), None, &[(DATA, 512)]);
    driver.prepare(0, 31, &Ata::queued(READ_QUEUED, 31, 41, 2).fis(true), None, &[(DATA + 0x1000, 1024)]);
    driver.set_port(0, px::SACT, 1 << 4 | 1 << 31);
    driver.issue(0, 1 << 4 | 1 << 31);
    assert_eq!((driver.port(0, px::CI), driver.port(0, px::SACT), driver.port(0, px::TFD)), (0, 0, 0x50));
    assert_eq!(driver.port(0, px::IS), 1 << 3, "and by nothing else");
    assert_eq!(driver.fis(0, 0x58, 8), [0xa1, 0x40, 0x50, 0, 0, 0, 0, 0x80]);
    assert_eq!(driver.bytes(DATA + 0x1000 + 512, 4), 42_u32.to_le_bytes());
    assert_eq!(bench.sector(40), [9; 512]);
}

#[test]
fn a_failed_queued_command_is_in_the_log() {
    let mut bench = Bench::new(Access::ReadWrite);
    let driver = &mut bench.driver;
    driver.prepare(0, 5, &Ata::queued(READ_QUEUED, 5, 2047, 2).fis(true), None, &[(DATA, 1024)]);
    driver.prepare(0, 6, &Ata::queued(READ_QUEUED, 6, 1, 1).fis(true), None, &[(DATA, 512)]);
    driver.set_port(0, px::SACT, 0b11 << 5);
    driver.issue(0, 0b11 << 5);
    assert_eq!((driver.port(0, px::CI), driver.port(0, px::SACT)), (1 << 6, 0b11 << 5));
    assert_eq!((driver.port(0, px::TFD), driver.port(0, px::IS)), (0x1051, 1 << 30 | 1 << 3));
    driver.restart(0);
    assert_eq!(driver.port(0, px::SACT), 0);
    assert_eq!(driver.ata(Ata::new(0x2f, 0x10, 1), &[(DATA, 512)]), 0x50);
    let page = driver.bytes(DATA, 512);
    assert_eq!(page[..8], [5, 0, 0x51, 0x10, 0xff, 0x07, 0, 0]);
    assert_eq!(page.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0, "checksum");
    driver.ata(Ata::new(0x2f, 0x10, 1), &[(DATA, 512)]);
    assert_eq!(driver.bytes(DATA, 1), [0x80], "told once");
    driver.ata(Ata::new(0x2f, 0, 1), &[(DATA, 512)]);
    assert_eq!((driver.bytes(DATA, 2), driver.bytes(DATA + 0x20, 2)), (vec![1, 0], vec![1, 0]));
}

#[test]
fn what_is_not_possible_is_refused() {
    let mut bench = Bench::new(Access::ReadWrite);
    let room = [(DATA, 1024)];
    assert_eq!(bench.fail(Ata::new(READ_DMA_EXT, 2047, 2), &room), 0x10, "past the end");
    assert_eq!(bench.fail(Ata::new(READ_DMA_EXT, (1 << 48) - 1, 0), &room), 0x10);
    assert_eq!(bench.fail(Ata { device: 0, ..Ata::new(READ_DMA_EXT, 0, 1) }, &room), 0x04, "cylinders");
    assert_eq!(bench.fail(Ata::new(WRITE_DMA_EXT, 0, 3), &room), 0x04, "less data than sectors");
    for command in [0x00, 0xb0, 0xa0, 0xa1, 0xf9] {
        assert_eq!(bench.fail(Ata::new(command, 0, 1), &room), 0x04, "{command:#x}");
    }
    bench.driver.ata(Ata::new(READ_DMA_EXT, 0, 3), &room);
    assert_eq!((bench.driver.port(0, px::IS), bench.driver.moved(0, 3)), (1 << 24 | 1, 1024), "less room");
}

#[test]
fn a_read_only_disk_refuses_writes() {
    let mut bench = Bench::new(Access::ReadOnly);
    assert_eq!(bench.fail(Ata::new(WRITE_DMA_EXT, 0, 1), &[(DATA, 512)]), 0x04);
    assert_eq!(bench.fail(Ata { features: 1, ..Ata::new(0x06, 0, 1) }, &[(DATA, 512)]), 0x04, "TRIM");
    assert_eq!(bench.driver.ata(Ata::new(READ_DMA_EXT, 1, 1), &[(DATA, 512)]), 0x50);
}

#[test]
fn trim_checks_all_ranges_first() {
    let mut bench = Bench::new(Access::ReadWrite);
    let trim = Ata { features: 1, ..Ata::new(0x06, 0, 1) };
    let list = |ranges: &[u64]| {
        let mut list: Vec<_> = ranges.iter().flat_map(|range| range.to_le_bytes()).collect();
        list.resize(512, 0);
        list
    };
    bench.driver.put(DATA, &list(&[8 << 48 | 16, 1 << 48 | 2048]));
    assert_eq!(bench.fail(trim, &[(DATA, 512)]), 0x10);
    assert_eq!(bench.sector(16)[0], 16);
    bench.driver.put(DATA, &list(&[8 << 48 | 16, 8 << 48 | 2040]));
    assert_eq!(bench.driver.ata(trim, &[(DATA, 512)]), 0x50);
    assert_eq!(bench.driver.ata(Ata::new(READ_DMA_EXT, 15, 1), &[(DATA, 512)]), 0x50);
    assert_eq!(bench.driver.bytes(DATA, 1), [15]);
    assert_eq!(bench.fail(Ata { count: 9, ..trim }, &[(DATA, 9 * 512)]), 0x04, "more than it says");
}

#[test]
fn features_are_shown_where_they_are_set() {
    let mut bench = Bench::new(Access::ReadWrite);
    assert_eq!((bench.identify()[85] & 0x60, bench.identify()[88]), (0x60, 0x203f));
    for (feature, count) in [(0x82, 0), (0x55, 0), (3, 0x42)] {
        assert_eq!(bench.driver.ata(Ata { features: feature, ..Ata::new(0xef, 0, count) }, &[]), 0x50);
    }
    assert_eq!(bench.driver.ata(Ata::new(0xc6, 0, 8), &[]), 0x50);
    let words = bench.identify();
    assert_eq!((words[85] & 0x60, words[88], words[59]), (0, 0x043f, 0x108));
    assert_eq!(bench.fail(Ata::new(0xc6, 0, 7), &[]), 0x04);
    assert_eq!(bench.fail(Ata { features: 3, ..Ata::new(0xef, 0, 0x47) }, &[]), 0x04);

    bench.driver.ata(Ata::new(0x27, 0, 0), &[]);
    assert_eq!(bench.driver.fis(0, 0x40, 7)[4..], [0xff, 0x07, 0], "the last sector");
    bench.driver.ata(Ata::new(0xe5, 0, 0), &[]);
    assert_eq!(bench.driver.fis(0, 0x40, 13)[12], 0xff, "active");
}
