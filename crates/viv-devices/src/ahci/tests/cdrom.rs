use super::*;

const CHECK_CONDITION: u32 = 0x51;

fn bench() -> Driver {
    Driver::one(cdrom(Some(&file(SIZE + 512))))
}

/// The sense key, code and qualifier of a packet that fails.
fn sense(driver: &mut Driver, packet: &[u8]) -> (u8, u8, u8) {
    let (task_file, _) = driver.packet(packet, 4096);
    assert_eq!(task_file & 0xff, CHECK_CONDITION, "{packet:x?}");
    driver.restart(0);
    let (_, data) = driver.packet(&[3, 0, 0, 0, 18], 18);
    assert_eq!((u32::from(data[2]) << 4, data[0], data.len()), (task_file >> 8, 0x70, 18));
    (data[2], data[12], data[13])
}

fn answer(driver: &mut Driver, packet: &[u8]) -> Vec<u8> {
    let (task_file, data) = driver.packet(packet, 4096);
    assert_eq!(task_file, 0x50, "{packet:x?}");
    data
}

#[test]
fn it_identifies_itself_as_a_packet_device() {
    let mut driver = bench();
    assert_eq!(driver.ata(Ata::new(0xa1, 0, 0), &[(DATA, 512)]), 0x50);
    assert_eq!(driver.bytes(DATA, 2), 0x85c0_u16.to_le_bytes());
    assert_eq!(driver.ata(Ata::new(IDENTIFY, 0, 0), &[(DATA, 512)]), 0x0451);
    assert_eq!(driver.fis(0, 0x40, 7)[4..], [1, 0x14, 0xeb], "it has the signature");
    driver.restart(0);
    let inquiry = answer(&mut driver, &[0x12, 0, 0, 0, 96]);
    assert_eq!(
        (&inquiry[..5], &inquiry[8..16], inquiry.len()),
        (&[5, 0x80, 0, 0x21, 31][..], &b"Vivarium"[..], 36)
    );
    assert_eq!(answer(&mut driver, &[0x12, 1, 0, 0, 96]), [5, 0, 0, 2, 0, 0x80]);
    assert_eq!(answer(&mut driver, &[0x12, 1, 0x80, 0, 7]), [5, 0x80, 0, 20, b'c', b'd', b'0']);
    assert_eq!(sense(&mut driver, &[0x12, 1, 0x83, 0, 96]), (5, 0x24, 0));
}

#[test]
fn blocks_are_read() {
    let mut driver = bench();
    assert_eq!(answer(&mut driver, &[0x25]), [0, 0, 2, 0, 0, 0, 8, 0], "513 blocks of 2048");
    let data = answer(&mut driver, &[0x28, 0, 0, 0, 0, 3, 0, 0, 2]);
    assert_eq!((data.len(), &data[..4], &data[2048..2052]), (4096, &[12, 0, 0, 0][..], &[16, 0, 0, 0][..]));
    assert_eq!((driver.port(0, px::IS), driver.fis(0, 0x40, 13)[12]), (1, 3));
    let data = answer(&mut driver, &[0xa8, 0, 0, 0, 2, 0, 0, 0, 0, 1]);
    assert_eq!(
        (data[..4].to_vec(), data[511], data[512]),
        (vec![0, 8, 0, 0], 0x5a, 0),
        "a last part of a block"
    );
    assert_eq!(answer(&mut driver, &[0x28]), [0; 0], "no blocks at all");
    assert_eq!(sense(&mut driver, &[0x28, 0, 0, 0, 2, 0, 0, 0, 2]), (5, 0x21, 0));
    assert_eq!(sense(&mut driver, &[0xa8, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), (5, 0x21, 0));
    let (task_file, data) = driver.packet(&[0x28, 0, 0, 0, 0, 0, 0, 0, 2], 2048);
    assert_eq!((task_file, data.len()), (0x50, 2048));
    assert_ne!(driver.port(0, px::IS) & 1 << 24, 0, "less room");
}

#[test]
fn a_packet_can_go_by_pio() {
    let mut driver = bench();
    let fis = Ata { command: 0xa0, lba: 0x800 << 8, ..Ata::default() }.fis(true);
    let mut packet = [0; 16];
    packet[0] = 0x25;
    driver.prepare(0, 0, &fis, Some(packet), &[(DATA, 8)]);
    driver.issue(0, 1);
    assert_eq!((driver.port(0, px::IS), driver.port(0, px::CI), driver.port(0, px::TFD)), (0b11, 0, 0x50));
    assert_eq!((driver.fis(0, 0x20, 2), driver.fis(0, 0x20, 18)[16]), (vec![0x5f, 0x60], 8));
    driver.prepare(0, 0, &fis, None, &[]);
    driver.issue(0, 1);
    assert_eq!(driver.port(0, px::TFD), 0x0451, "no packet");
}

#[test]
fn the_tables_tell_of_one_data_track() {
    let mut driver = bench();
    let toc = answer(&mut driver, &[0x43, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
    assert_eq!(toc, [0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x16, 0xaa, 0, 0, 0, 2, 1]);
    let times = answer(&mut driver, &[0x43, 2, 0, 0, 0, 0, 0xaa, 0, 12]);
    assert_eq!(times, [0, 10, 1, 1, 0, 0x16, 0xaa, 0, 0, 0, 8, 63]);
    assert_eq!(answer(&mut driver, &[0x43, 0, 1, 0, 0, 0, 0, 0, 12])[..2], [0, 10]);
    assert_eq!(answer(&mut driver, &[0x43, 0, 2, 0, 0, 0, 0, 1, 0]).len(), 48);
    assert_eq!(sense(&mut driver, &[0x43, 0, 0, 0, 0, 0, 2, 0, 12]), (5, 0x24, 0));
    let disc = answer(&mut driver, &[0x51, 0, 0, 0, 0, 0, 0, 0, 34]);
    assert_eq!((disc.len(), &disc[..4]), (34, &[0, 32, 0x0e, 1][..]));
    assert_eq!(answer(&mut driver, &[0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8]), [0, 0, 0, 0, 0, 1, 0, 0]);
    assert_eq!(answer(&mut driver, &[0xbb]), [0; 0]);
}

#[test]
fn configuration_and_mode_pages_have_their_lengths() {
    let mut driver = bench();
    let all = answer(&mut driver, &[0x46, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(
        (all.len(), &all[..8]),
        (4 + all[3] as usize, &[0, 0, 0, all[3], 0, 0, 0, 8][..]),
        "a CD is in"
    );
    assert_eq!(answer(&mut driver, &[0x46, 2, 0, 3, 0, 0, 0, 1, 0])[8..], [0, 3, 3, 4, 0x29, 0, 0, 0]);
    assert!(answer(&mut driver, &[0x46, 1, 0, 0, 0, 0, 0, 1, 0]).len() < all.len(), "current ones only");
    assert_eq!(sense(&mut driver, &[0x46, 3, 0, 0, 0, 0, 0, 1, 0]), (5, 0x24, 0));

    let long = answer(&mut driver, &[0x5a, 0, 0x3f, 0, 0, 0, 0, 1, 0]);
    assert_eq!((long.len(), long[1], long[8], long[20]), (40, 38, 1, 0x2a));
    let short = answer(&mut driver, &[0x1a, 0, 0x2a, 0, 255]);
    assert_eq!((short.len(), short[0], short[4], short[5]), (24, 23, 0x2a, 18));
    assert_eq!(sense(&mut driver, &[0x5a, 0, 0xea, 0, 0, 0, 0, 1, 0]), (5, 0x39, 0));
    assert_eq!(sense(&mut driver, &[0x5a, 0, 0x05, 0, 0, 0, 0, 1, 0]), (5, 0x24, 0));
}

#[test]
fn the_tray_opens_unless_it_is_locked() {
    let mut driver = bench();
    let poll = [0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8];
    assert_eq!(answer(&mut driver, &poll), [0, 6, 4, 0x10, 0, 2, 0, 0]);
    answer(&mut driver, &[0x1e, 0, 0, 0, 1]);
    assert_eq!(sense(&mut driver, &[0x1b, 0, 0, 0, 2]), (5, 0x53, 2));
    answer(&mut driver, &[0x1e]);
    answer(&mut driver, &[0x1b, 0, 0, 0, 2]);
    assert_eq!(answer(&mut driver, &poll), [0, 6, 4, 0x10, 3, 1, 0, 0], "removed");
    assert_eq!(answer(&mut driver, &poll)[4], 0, "told once");
    assert_eq!(sense(&mut driver, &[0]), (2, 0x3a, 2));
    driver.reset();
    driver.start(0);
    assert_eq!(sense(&mut driver, &[0x28]), (2, 0x3a, 2), "over a reset");

    answer(&mut driver, &[0x1b, 0, 0, 0, 3]);
    assert_eq!(answer(&mut driver, &poll)[4..6], [2, 2], "new");
    assert_eq!(sense(&mut driver, &[0]), (6, 0x28, 0));
    answer(&mut driver, &[0]);
    assert_eq!(answer(&mut driver, &[0x4a, 1, 0, 0, 1, 0, 0, 0, 8]), [0, 2, 0x80, 0x10], "no such class");
    assert_eq!(sense(&mut driver, &[0x4a]), (5, 0x24, 0), "not by itself");
}

#[test]
fn an_empty_drive_says_so() {
    let mut driver = Driver::one(cdrom(None));
    for packet in [&[0x00][..], &[0x25], &[0x28], &[0x43], &[0x51]] {
        assert_eq!(sense(&mut driver, packet), (2, 0x3a, 1), "{packet:x?}");
    }
    assert_eq!(answer(&mut driver, &[0x46, 0, 0, 0, 0, 0, 0, 0, 8])[6..], [0, 0], "no profile");
    assert_eq!(answer(&mut driver, &[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8])[4..6], [0, 0]);
    assert_eq!(sense(&mut driver, &[0x99]), (5, 0x20, 0));
    assert_eq!(answer(&mut driver, &[3, 0, 0, 0, 18])[2], 0, "a sense is told once");
}
