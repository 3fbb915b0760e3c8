use super::*;
use crate::testing::{Places, Requests, inb, outb, reset_gives_power_on_state};

const SELECTOR: u16 = layout::CPU_HOTPLUG;
const FLAGS: u16 = SELECTOR + 4;
const COMMAND: u16 = SELECTOR + 5;
const DATA: u16 = SELECTOR + 8;

struct Bench {
    device: CpuHotplug,
    requests: Arc<Requests>,
}

impl Bench {
    /// Room for four, two of them there.
    fn new() -> Self {
        let requests = Arc::new(Requests::default());
        Self { device: CpuHotplug::new(2, 4, requests.clone()), requests }
    }

    fn select(&mut self, cpu: u32) {
        self.device.write(SELECTOR, &cpu.to_le_bytes());
    }

    fn flags(&mut self, cpu: u32) -> u8 {
        self.select(cpu);
        inb(&mut self.device, FLAGS)
    }

    fn dword(&mut self, port: u16) -> u32 {
        let mut data = [0xff; 4];
        self.device.read(port, &mut data);
        u32::from_le_bytes(data)
    }

    /// What a guest does on the event: which CPUs have come, and which are to go.
    fn news(&mut self) -> (Vec<u32>, Vec<u32>) {
        let (mut come, mut go) = (Vec::new(), Vec::new());
        loop {
            outb(&mut self.device, COMMAND, 0);
            let cpu = self.dword(DATA);
            match inb(&mut self.device, FLAGS) {
                flags if flags & 2 != 0 => {
                    come.push(cpu);
                    outb(&mut self.device, FLAGS, 2);
                }
                flags if flags & 4 != 0 => {
                    go.push(cpu);
                    outb(&mut self.device, FLAGS, 4);
                }
                _ => return (come, go),
            }
        }
    }

    fn present(&self) -> Vec<bool> {
        self.device.present().collect()
    }
}

#[test]
fn cpus_come_and_go() {
    let mut bench = Bench::new();
    assert_eq!(bench.news(), (vec![], vec![]));
    assert_eq!([0, 1, 2, 3, 4, u32::MAX].map(|cpu| bench.flags(cpu)), [1, 1, 0, 0, 0, 0]);

    assert!(bench.device.set_wanted(4));
    assert_eq!(bench.present(), [true; 4]);
    assert_eq!(bench.flags(3), 3);
    assert_eq!(bench.news(), (vec![3, 2], vec![]), "from the selected one on and around");
    assert_eq!(bench.flags(3), 1);

    assert!(bench.device.set_wanted(1));
    assert_eq!(bench.present(), [true; 4], "the guest has not agreed yet");
    bench.select(0);
    assert_eq!(bench.news(), (vec![], vec![1, 2, 3]));
    bench.select(2);
    outb(&mut bench.device, FLAGS, 8);
    assert_eq!(bench.present(), [true, true, false, true]);
    assert_eq!(bench.requests.take(), [SystemRequest::CpuEjected]);
    outb(&mut bench.device, FLAGS, 8);
    assert!(bench.requests.take().is_empty(), "it has gone already");
}

#[test]
fn a_wish_can_be_taken_back() {
    let mut bench = Bench::new();
    assert!(bench.device.set_wanted(1));
    assert!(!bench.device.set_wanted(2));
    assert_eq!(bench.news(), (vec![], vec![]));
}

#[test]
fn the_first_stays() {
    let mut bench = Bench::new();
    assert!(bench.device.set_wanted(0));
    assert_eq!(bench.device.wanted(), 1);
    bench.select(0);
    outb(&mut bench.device, FLAGS, 8);
    assert!(bench.present()[0] && bench.requests.take().is_empty());
}

#[test]
fn a_command_gives_the_local_apic_id() {
    let mut bench = Bench::new();
    bench.select(3);
    outb(&mut bench.device, COMMAND, 3);
    assert_eq!((bench.dword(DATA), bench.dword(SELECTOR)), (3, 0));
    outb(&mut bench.device, COMMAND, 1);
    assert_eq!(bench.dword(DATA), 0);
    assert_eq!(inb(&mut bench.device, DATA), 0, "by its own width only");
}

#[test]
fn a_reset_makes_all_as_it_is_wanted() {
    let mut bench = Bench::new();
    bench.device.set_wanted(1);
    bench.device.reset();
    assert_eq!(bench.present(), [true, false, false, false]);
    assert_eq!(bench.news(), (vec![], vec![]));
    reset_gives_power_on_state(|| Bench::new().device, &Places { ports: &CpuHotplug::PORTS, memory: 0 });
}

#[test]
fn it_goes_on_after_a_restore() {
    let mut before = Bench::new();
    before.device.set_wanted(3);
    before.select(2);
    let saved = before.device.save().unwrap();
    let mut after = Bench::new();
    after.device.restore(&saved).unwrap();
    assert_eq!(after.device.save().unwrap(), saved);
    assert_eq!(after.news(), (vec![2], vec![]));
    let mut other = CpuHotplug::new(2, 5, Arc::new(Requests::default()));
    assert!(other.restore(&saved).is_err());
}
