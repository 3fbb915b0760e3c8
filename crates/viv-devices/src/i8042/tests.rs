use super::*;
use crate::testing::{Lines, Places, Processors, Requests, inb, outb, reset_gives_power_on_state};

struct Bench {
    lines: Arc<Lines>,
    requests: Arc<Requests>,
    device: I8042,
}

mod devices;

fn gate() -> Arc<A20Gate> {
    A20Gate::new(Arc::<Processors>::default())
}

fn bench() -> Bench {
    let (lines, requests) = (Arc::new(Lines::default()), Arc::new(Requests::default()));
    let device = I8042::new(lines.line(layout::KEYBOARD_IRQ), requests.clone(), gate());
    Bench { lines, requests, device }
}

impl Bench {
    fn command(&mut self, value: u8) {
        outb(&mut self.device, layout::I8042_COMMAND, value);
    }

    fn data(&mut self, value: u8) {
        outb(&mut self.device, layout::I8042_DATA, value);
    }

    fn status(&mut self) -> u8 {
        inb(&mut self.device, layout::I8042_COMMAND)
    }

    /// The byte in the output buffer, if there is one.
    fn answer(&mut self) -> Option<u8> {
        (self.status() & 1 != 0).then(|| inb(&mut self.device, layout::I8042_DATA))
    }

    fn ask(&mut self, command: u8) -> Option<u8> {
        self.command(command);
        self.answer()
    }
}

#[test]
fn linux_probes_it_without_waiting() {
    let mut b = bench();
    assert_eq!(b.answer(), None, "nothing to flush");
    let control = b.ask(0x20).unwrap();
    b.command(0x60);
    b.data(control & !0x01 | 0x10);
    assert_eq!(b.ask(0x20), Some(control & !0x01 | 0x10));
    assert_eq!(b.ask(0xaa), Some(0x55));
    assert_eq!(b.status() & 4, 4);
    b.command(0xd3);
    b.data(0x5a);
    assert_eq!(b.status() & 0x21, 0x01, "the loop answers, and not as an auxiliary device");
    assert_eq!(b.answer(), Some(0x5a));
    assert_eq!(b.ask(0xa9), Some(0x02), "there is no auxiliary port");
    assert_eq!(b.ask(0xab), Some(0x00));
}

#[test]
fn a_keyboard_that_is_not_there_times_out_at_once() {
    let mut b = bench();
    b.command(0xad);
    assert_eq!(b.ask(0x20).unwrap() & 0x10, 0x10);
    b.data(0xf2);
    assert_eq!(b.status() & 0x41, 0x41);
    assert!(b.lines.is_asserted(layout::KEYBOARD_IRQ));
    assert_eq!(b.answer(), Some(0xfe));
    assert!(!b.lines.is_asserted(layout::KEYBOARD_IRQ));
    assert_eq!(b.ask(0x20).unwrap() & 0x10, 0, "writing to it opens its port");
}

#[test]
fn interrupts_are_the_command_bytes_to_give() {
    let mut b = bench();
    b.command(0x60);
    b.data(0);
    b.data(0xff);
    assert!(!b.lines.is_asserted(layout::KEYBOARD_IRQ));
    b.command(0x60);
    b.data(1);
    assert!(b.lines.is_asserted(layout::KEYBOARD_IRQ));
}

#[test]
fn it_resets_the_machine() {
    let mut b = bench();
    b.command(0xfe);
    assert_eq!(b.requests.take(), [SystemRequest::Reset]);
    b.command(0xff);
    b.command(0xd1);
    b.data(0x03);
    assert_eq!(b.requests.take(), []);
    b.command(0xd1);
    b.data(0x02);
    assert_eq!(b.requests.take(), [SystemRequest::Reset]);
}

#[test]
fn the_a20_gate_reads_back() {
    let mut b = bench();
    assert_eq!(b.ask(0xd0).unwrap() & 3, 3);
    b.command(0xdd);
    assert_eq!(b.ask(0xd0).unwrap() & 3, 1);
    b.command(0xdf);
    assert_eq!(b.ask(0xd0).unwrap() & 3, 3);
    b.command(0xd1);
    b.data(0x01);
    assert_eq!(b.ask(0xd0).unwrap() & 3, 1);
}

#[test]
fn a_new_command_drops_one_that_waits_for_its_byte() {
    let mut b = bench();
    b.command(0xd1);
    b.command(0xae);
    b.data(0x00);
    assert_eq!(b.requests.take(), []);
    assert_eq!(b.answer(), Some(0xfe));
}

#[test]
fn a_state_with_other_devices_is_refused() {
    let mut b = bench();
    b.command(0xad);
    b.command(0xd2);
    b.data(0x5a);
    let state = b.device.save().unwrap();
    let mut other = bench();
    other.device.restore(&state).unwrap();
    assert_eq!(other.device.state, b.device.state);
    assert!(other.lines.is_asserted(layout::KEYBOARD_IRQ));
    assert!(devices::bench().device.restore(&state).is_err(), "this one has no devices");
}

#[test]
fn a_reset_gives_the_state_after_power_on() {
    let places = Places { ports: &I8042::PORTS, memory: 0 };
    reset_gives_power_on_state(|| bench().device, &places);
}
