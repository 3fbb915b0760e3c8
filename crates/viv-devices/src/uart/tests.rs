use std::sync::{Arc, Mutex};

use super::*;
use crate::testing::{Lines, Places, inb, outb, reset_gives_power_on_state};

const IRQ: u32 = layout::UART0_IRQ;
const BASE: u16 = layout::UART0;
const IER: u16 = BASE + 1;
const IIR: u16 = BASE + 2;
const FCR: u16 = BASE + 2;
const LCR: u16 = BASE + 3;
const MCR: u16 = BASE + 4;
const LSR: u16 = BASE + 5;
const MSR: u16 = BASE + 6;

/// A far end that takes `room` bytes and no more.
#[derive(Default)]
struct FarEnd {
    room: usize,
    output: Vec<u8>,
    input_wanted: u32,
}

struct Backend(Arc<Mutex<FarEnd>>);

impl CharBackend for Backend {
    fn transmit(&mut self, data: &[u8]) -> usize {
        let mut end = self.0.lock().unwrap();
        let taken = data.len().min(end.room);
        end.room -= taken;
        end.output.extend(&data[..taken]);
        taken
    }

    fn input_wanted(&mut self) {
        self.0.lock().unwrap().input_wanted += 1;
    }
}

struct Bench {
    uart: Uart,
    far: Arc<Mutex<FarEnd>>,
    lines: Arc<Lines>,
}

fn bench(room: usize) -> Bench {
    let far = Arc::new(Mutex::new(FarEnd { room, ..FarEnd::default() }));
    let lines = Arc::new(Lines::default());
    let uart = Uart::new(0, BASE, lines.line(IRQ), Box::new(Backend(Arc::clone(&far))));
    Bench { uart, far, lines }
}

impl Bench {
    fn inb(&mut self, port: u16) -> u8 {
        inb(&mut self.uart, port)
    }
    fn outb(&mut self, port: u16, value: u8) {
        outb(&mut self.uart, port, value);
    }
    fn irq(&self) -> bool {
        self.lines.is_asserted(IRQ)
    }
    fn output(&self) -> Vec<u8> {
        self.far.lock().unwrap().output.clone()
    }
}

#[test]
fn linux_takes_it_for_a_16550a() {
    let mut b = bench(usize::MAX);
    b.outb(IER, 0);
    assert_eq!(b.inb(IER), 0);
    b.outb(IER, 0x0f);
    assert_eq!(b.inb(IER), 0x0f);
    b.outb(IER, 0);
    b.outb(MCR, 0x10 | 0x0a);
    assert_eq!(b.inb(MSR) & 0xf0, 0x90, "RTS and OUT2 loop back as CTS and DCD");
    b.outb(MCR, 0);
    b.outb(LCR, 0xbf);
    b.outb(FCR, 1);
    assert_eq!(b.inb(IIR) >> 6, 3);
    assert_ne!(b.inb(IIR), 0, "not a 16650, which has EFR here");
    b.outb(LCR, 0x80);
    b.outb(FCR, 0x21);
    assert_eq!(b.inb(IIR) & 0x20, 0, "not a 16750, which has 64 bytes");
    b.outb(LCR, 0);
    b.outb(FCR, 0);
    assert_eq!(b.inb(IIR), 1);
    b.outb(IER, 0x40);
    assert_eq!(b.inb(IER), 0, "not an XScale, which has UUE");
}

#[test]
fn transmit_interrupts_come_as_the_linux_driver_needs_them() {
    let mut b = bench(usize::MAX);
    b.outb(FCR, 1);
    assert!(!b.irq());
    b.outb(IER, 2);
    assert!(b.irq(), "enabling it is what starts transmission");
    assert_eq!(b.inb(IIR), 0xc2);
    assert!(!b.irq(), "reading IIR acknowledges");
    assert_eq!(b.inb(IIR), 0xc1);
    for &byte in b"hello" {
        b.outb(BASE, byte);
    }
    assert_eq!(b.output(), b"hello");
    assert!(b.irq(), "the FIFO has run empty");
    assert_eq!(b.inb(LSR), 0x60);
    assert!(b.irq(), "reading LSR does not acknowledge");
    b.outb(IER, 0);
    assert!(!b.irq());
    b.outb(IER, 2);
    assert_eq!(b.inb(IIR), 0xc2);
}

#[test]
fn a_far_end_that_takes_no_more_fills_the_transmitter() {
    let mut b = bench(3);
    b.outb(FCR, 1);
    b.outb(IER, 2);
    b.inb(IIR);
    for byte in 0..24 {
        b.outb(BASE, byte);
    }
    assert_eq!(b.output(), [0, 1, 2]);
    assert_eq!(b.inb(LSR), 0);
    assert!(!b.irq());
    b.far.lock().unwrap().room = 10;
    b.uart.drain();
    assert_eq!(b.inb(LSR), 0, "some are left");
    b.far.lock().unwrap().room = 10;
    b.uart.drain();
    assert_eq!(b.output(), (0..19).collect::<Vec<_>>(), "the FIFO holds 16; what came on top is lost");
    assert_eq!(b.inb(LSR), 0x60);
    assert!(b.irq());
}

#[test]
fn input_is_taken_as_far_as_there_is_room() {
    let mut b = bench(0);
    assert_eq!(b.uart.enqueue(b"ab"), 1, "one byte without FIFOs");
    assert_eq!(b.inb(BASE), b'a');
    assert_eq!(b.far.lock().unwrap().input_wanted, 1);
    b.outb(FCR, 1);
    let text = b"the quick brown fox";
    assert_eq!(b.uart.enqueue(text), 16);
    assert_eq!(b.uart.enqueue(b"x"), 0);
    let read: Vec<u8> = (0..16).map(|_| b.inb(BASE)).collect();
    assert_eq!(read, text[..16]);
    assert_eq!(b.far.lock().unwrap().input_wanted, 2, "told once, at the first byte of room");
    assert_eq!(b.inb(LSR) & 1, 0);
    assert_eq!(b.inb(BASE), 0);
}

#[test]
fn receive_interrupts_follow_the_trigger_level() {
    let mut b = bench(0);
    b.outb(FCR, 0x81);
    b.outb(IER, 1);
    b.uart.enqueue(b"1234567");
    assert_eq!(b.inb(IIR), 0xcc, "below the level: character timeout");
    b.uart.enqueue(b"8");
    assert_eq!(b.inb(IIR), 0xc4);
    assert!(b.irq());
    for _ in 0..8 {
        b.inb(BASE);
    }
    assert_eq!(b.inb(IIR), 0xc1);
    assert!(!b.irq());
}

#[test]
fn causes_are_reported_by_priority() {
    let mut b = bench(0);
    b.outb(MCR, 0x10);
    b.outb(IER, 0x0f);
    b.outb(BASE, b'x');
    b.outb(BASE, b'y');
    assert_eq!(b.inb(IIR), 6, "overrun");
    assert_eq!(b.inb(LSR), 0x63);
    assert_eq!(b.inb(IIR), 4);
    assert_eq!(b.inb(BASE), b'y');
    assert_eq!(b.inb(IIR), 2);
    assert_eq!(b.inb(IIR), 0, "CTS, DSR and DCD went away");
    assert_eq!(b.inb(MSR), 0x0b);
    assert_eq!(b.inb(IIR), 1);
    assert!(!b.irq());
    assert_eq!(b.output(), b"", "loopback stays within");
    assert_eq!(b.uart.enqueue(b"z"), 0, "and keeps the line out");
    b.outb(MCR, 0);
    assert_eq!(b.far.lock().unwrap().input_wanted, 1);
}

#[test]
fn the_divisor_latch_hides_data_and_enable() {
    let mut b = bench(usize::MAX);
    b.outb(LCR, 0x83);
    b.uart.port_io().unwrap().write(BASE, &[1, 0]);
    assert_eq!((b.inb(BASE), b.inb(IER)), (1, 0));
    b.outb(LCR, 0x03);
    assert_eq!(b.inb(IER), 0);
    assert!(b.output().is_empty());
}

#[test]
fn resetting_the_fifos_empties_them() {
    let mut b = bench(0);
    b.outb(FCR, 1);
    b.uart.enqueue(b"abc");
    b.outb(BASE, b'x');
    assert_eq!(b.inb(LSR), 0x01);
    b.outb(FCR, 7);
    assert_eq!(b.inb(LSR), 0x60);
    assert_eq!(b.inb(IIR), 0xc1);
}

#[test]
fn a_restored_line_goes_on() {
    let mut b = bench(0);
    b.outb(FCR, 1);
    b.outb(IER, 3);
    b.inb(IIR);
    b.outb(BASE, b'x');
    b.uart.enqueue(b"in");
    let saved = b.uart.save().unwrap();
    let mut other = bench(1);
    other.uart.restore(&saved).unwrap();
    assert!(other.irq());
    assert_eq!(other.output(), b"x", "what was on its way goes out");
    assert_eq!(other.inb(BASE), b'i');
    assert_eq!(other.inb(BASE), b'n');
    assert_eq!(other.inb(IIR), 0xc2);
}

#[test]
fn a_reset_gives_the_state_after_power_on() {
    let places = Places { ports: &Uart::PORTS, memory: 0 };
    reset_gives_power_on_state(|| bench(0).uart, &places);
    reset_gives_power_on_state(|| bench(1000).uart, &places);
}
