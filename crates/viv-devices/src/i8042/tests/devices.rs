//! Keyboard and mouse, as drivers meet them.

use super::*;
use crate::testing::Random;

/// A controller with both, their ports open and their interrupts on.
pub(super) fn bench() -> Bench {
    let (lines, requests) = (Arc::new(Lines::default()), Arc::new(Requests::default()));
    let (keyboard, mouse) = (lines.line(layout::KEYBOARD_IRQ), lines.line(layout::MOUSE_IRQ));
    let mut b = Bench {
        lines,
        requests: requests.clone(),
        device: I8042::with_devices(keyboard, mouse, requests, gate()),
    };
    b.command(0x60);
    b.data(0x47);
    b
}

impl Bench {
    /// All bytes that wait.
    fn rest(&mut self) -> Vec<u8> {
        std::iter::from_fn(|| self.answer()).collect()
    }

    /// What the keyboard answers.
    fn keyboard(&mut self, value: u8) -> Vec<u8> {
        self.data(value);
        self.rest()
    }

    /// What the mouse answers; all of it as such.
    fn mouse(&mut self, value: u8) -> Vec<u8> {
        self.command(0xd4);
        self.data(value);
        let mut bytes = Vec::new();
        while self.status() & 1 != 0 {
            assert_eq!(self.status() & 0x20, 0x20, "the byte is the mouse's");
            bytes.push(inb(&mut self.device, layout::I8042_DATA));
        }
        bytes
    }

    fn key(&mut self, name: &str, down: bool) -> bool {
        self.device.key(Key::by_name(name).unwrap(), down)
    }

    fn moved(&mut self, right: i16, down: i16, wheel: i8, buttons: u8) -> Vec<u8> {
        self.device.mouse(MouseInput { right, down, wheel, buttons });
        self.rest()
    }
}

#[test]
fn the_keyboard_answers_its_commands() {
    let mut b = bench();
    assert_eq!(b.keyboard(0xff), [0xfa, 0xaa]);
    assert_eq!(b.keyboard(0xee), [0xee]);
    assert_eq!(b.keyboard(0xf2), [0xfa, 0xab, 0x41], "translated");
    assert_eq!(b.keyboard(0xed), [0xfa]);
    assert_eq!((b.keyboard(0x06), b.device.leds()), (vec![0xfa], 6));
    assert_eq!((b.keyboard(0xf3), b.keyboard(0x00)), (vec![0xfa], vec![0xfa]));
    assert_eq!((b.keyboard(0xf0), b.keyboard(0x00)), (vec![0xfa], vec![0xfa, 0x41]));
    assert_eq!((b.keyboard(0xf0), b.keyboard(0x02)), (vec![0xfa], vec![0xfa]));
    assert_eq!((b.keyboard(0xf0), b.keyboard(0x03)), (vec![0xfa], vec![0xfe]), "no other set");
    assert_eq!(b.keyboard(0x12), [0xfe]);
    assert_eq!(
        (b.keyboard(0xed), b.keyboard(0xf4)),
        (vec![0xfa], vec![0xfa]),
        "a command in place of the lights"
    );
    assert_eq!((b.keyboard(0xee), b.keyboard(0xfe)), (vec![0xee], vec![0xee]), "once more");
    b.command(0x60);
    b.data(0x07);
    assert_eq!(b.keyboard(0xf2), [0xfa, 0xab, 0x83]);
}

#[test]
fn keys_come_translated_or_not() {
    let mut b = bench();
    for (name, down, expected) in [
        ("a", true, &[0x1e][..]),
        ("a", false, &[0x9e]),
        ("up", true, &[0xe0, 0x48]),
        ("up", false, &[0xe0, 0xc8]),
        ("f7", true, &[0x41]),
        ("f12", false, &[0xd8]),
        ("pause", true, &[0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5]),
    ] {
        assert!(b.key(name, down));
        assert_eq!(b.rest(), expected, "{name}");
    }
    b.command(0x60);
    b.data(0x07);
    b.key("up", false);
    assert_eq!(b.rest(), [0xe0, 0xf0, 0x75]);
    b.keyboard(0xf5);
    assert!(b.key("a", true));
    assert_eq!(b.rest(), [], "it is switched off");
}

#[test]
fn bytes_come_one_by_one_with_an_edge_each() {
    let mut b = bench();
    b.key("up", true);
    assert_eq!((b.lines.edges(layout::KEYBOARD_IRQ), b.answer()), (1, Some(0xe0)));
    assert!(b.lines.is_asserted(layout::KEYBOARD_IRQ));
    assert_eq!((b.lines.edges(layout::KEYBOARD_IRQ), b.answer()), (2, Some(0x48)));
    assert!(!b.lines.is_asserted(layout::KEYBOARD_IRQ));
    b.command(0xad);
    b.key("a", true);
    assert_eq!(b.answer(), None, "its port is closed");
    assert_eq!(b.ask(0x20), Some(0x57), "the controller answers");
    b.command(0xae);
    assert_eq!((b.lines.edges(layout::KEYBOARD_IRQ), b.answer()), (4, Some(0x1e)));
}

#[test]
fn keys_that_nobody_fetches_are_refused_whole() {
    let mut b = bench();
    let typed = (0..200).filter(|_| b.key("up", true)).count();
    assert_eq!(b.rest(), [0xe0, 0x48].repeat(typed));
    assert!((16..100).contains(&typed), "{typed} keys");
    assert!(b.key("up", true));
    b.keyboard(0xf4);
    assert_eq!(b.rest(), [], "enabling it forgets what was typed");
}

#[test]
fn the_mouse_answers_its_commands() {
    let mut b = bench();
    assert_eq!(b.ask(0xa9), Some(0));
    assert_eq!(b.mouse(0xff), [0xfa, 0xaa, 0x00]);
    assert_eq!(b.mouse(0xf2), [0xfa, 0x00]);
    assert_eq!(b.mouse(0xe9), [0xfa, 0x00, 0x02, 100]);
    for (value, answer) in [(0xe8, 0xfa), (0x03, 0xfa), (0xf3, 0xfa), (40, 0xfa), (0xe7, 0xfa), (0xf4, 0xfa)]
    {
        assert_eq!(b.mouse(value), [answer], "{value:#x}");
    }
    assert_eq!(b.mouse(0xe9), [0xfa, 0x30, 0x03, 40]);
    assert_eq!((b.mouse(0xe8), b.mouse(0x07)), (vec![0xfa], vec![0xfc]));
    assert_eq!(b.mouse(0x42), [0xfc]);
    assert_eq!(
        (b.mouse(0xee), b.mouse(0x42), b.mouse(0xf2)),
        (vec![0xfa], vec![0x42], vec![0xf2]),
        "wrapped"
    );
    assert_eq!((b.mouse(0xec), b.mouse(0xf6)), (vec![0xfa], vec![0xfa]));
    assert_eq!(b.mouse(0xe9), [0xfa, 0x00, 0x02, 100]);
    b.command(0xa7);
    assert_eq!(b.ask(0x20).unwrap() & 0x20, 0x20);
    b.command(0xd3);
    b.data(0x5a);
    assert_eq!((b.status() & 0x21, b.answer()), (0x21, Some(0x5a)));
}

#[test]
fn movements_are_reported_up_to_what_a_report_holds() {
    let mut b = bench();
    assert_eq!(b.moved(5, 5, 0, 0), [], "nobody wants to know");
    b.mouse(0xf4);
    assert_eq!(b.moved(3, 1, 0, 0b001), [0x29, 3, 0xff]);
    assert!(b.lines.edges(layout::MOUSE_IRQ) >= 3 && b.lines.edges(layout::KEYBOARD_IRQ) == 0);
    assert_eq!(b.moved(-300, 0, 0, 0b110), [0x1e, 0x01, 0, 0x1e, 0xd3, 0], "in two");
    assert_eq!(b.moved(0, 0, 1, 0b110), [], "no wheel");
    b.mouse(0xe7);
    assert_eq!(b.moved(4, 0, 0, 0), [0x08, 6, 0], "scaled");
    b.mouse(0xf0);
    assert_eq!(b.moved(4, 0, 0, 0), [], "remote");
    assert_eq!((b.mouse(0xeb), b.mouse(0xeb)), (vec![0xfa, 0x08, 4, 0], vec![0xfa, 0x08, 0, 0]));
}

#[test]
fn a_driver_that_knows_the_wheel_gets_it() {
    let mut b = bench();
    for rate in [200, 100, 80] {
        b.mouse(0xf3);
        b.mouse(rate);
    }
    assert_eq!(b.mouse(0xf2), [0xfa, 0x03]);
    b.mouse(0xf4);
    assert_eq!(b.moved(0, 0, 1, 0), [0x08, 0, 0, 1]);
    assert_eq!(b.moved(0, 0, -9, 0), [0x08, 0, 0, 0xf9, 0x08, 0, 0, 0xfe]);
    b.mouse(0xff);
    assert_eq!(b.mouse(0xf2), [0xfa, 0x00]);
}

#[test]
fn movements_that_nobody_fetches_are_summed_up() {
    let mut b = bench();
    b.mouse(0xf4);
    for _ in 0..1000 {
        b.device.mouse(MouseInput { right: 1, down: 0, wheel: 0, buttons: 0 });
    }
    let reports = b.rest();
    assert!(reports.len() < 100, "{}", reports.len());
    let (reports, rest) = reports.as_chunks::<3>();
    assert_eq!((reports.iter().map(|[_, x, _]| u32::from(*x)).sum::<u32>(), rest), (1000, &[][..]));
}

#[test]
fn what_waits_is_saved() {
    let mut b = bench();
    b.mouse(0xf4);
    b.key("up", true);
    b.key("up", false);
    b.device.mouse(MouseInput { right: 7, down: 0, wheel: 0, buttons: 0 });
    let mut other = bench();
    other.device.restore(&b.device.save().unwrap()).unwrap();
    assert!(other.lines.is_asserted(layout::KEYBOARD_IRQ));
    assert_eq!(other.rest(), [0xe0, 0x48, 0xe0, 0xc8, 0x08, 7, 0]);
    assert!(super::bench().device.restore(&b.device.save().unwrap()).is_err());
}

#[test]
fn a_reset_gives_the_state_after_power_on_with_devices() {
    let fresh = || {
        let lines = Arc::new(Lines::default());
        let (keyboard, mouse) = (lines.line(layout::KEYBOARD_IRQ), lines.line(layout::MOUSE_IRQ));
        I8042::with_devices(keyboard, mouse, Arc::new(Requests::default()), gate())
    };
    let places = Places { ports: &I8042::PORTS, memory: 0 };
    reset_gives_power_on_state(fresh, &places);
    let mut random = Random(0x1357_9bdf_0246_8ace);
    let mut device = fresh();
    for _ in 0..20_000 {
        let value = random.next().to_le_bytes();
        match random.below(4) {
            0 => outb(&mut device, layout::I8042_COMMAND, if random.below(2) == 0 { 0xd4 } else { value[0] }),
            1 => outb(&mut device, layout::I8042_DATA, value[0]),
            2 => device.mouse(MouseInput {
                right: i16::from_le_bytes([value[0], value[1]]),
                down: i16::from_le_bytes([value[2], value[3]]),
                wheel: value[4].cast_signed(),
                buttons: value[5],
            }),
            _ => drop((device.key(Key::SHIFT, random.below(2) == 0), inb(&mut device, layout::I8042_DATA))),
        }
    }
}
