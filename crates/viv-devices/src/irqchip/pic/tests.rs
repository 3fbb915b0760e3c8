use super::*;

/// A pair as Linux sets it up: vectors 0x30 and 0x38, nothing masked.
fn initialized() -> Pic {
    let mut pic = Pic::new();
    for (base, icw) in [(PIC_MASTER, [0x11, 0x30, 0x04, 0x01]), (PIC_SLAVE, [0x11, 0x38, 0x02, 0x01])] {
        pic.write(base, icw[0]);
        for word in &icw[1..] {
            pic.write(base + 1, *word);
        }
        pic.write(base + 1, 0);
    }
    pic
}

fn pulse(pic: &mut Pic, irq: u8) {
    pic.set_line(irq, true);
    pic.set_line(irq, false);
}

const EOI: u8 = 0x20;

#[test]
fn an_edge_makes_one_interrupt() {
    let mut pic = initialized();
    assert!(!pic.intr());
    assert_eq!(pic.acknowledge(), None);
    pic.set_line(4, true);
    assert!(pic.intr());
    assert_eq!(pic.acknowledge(), Some(0x34));
    assert!(!pic.intr());
    pic.write(PIC_MASTER, EOI);
    assert!(!pic.intr(), "still asserted, but no new edge");
    pic.set_line(4, false);
    pic.set_line(4, true);
    assert_eq!(pic.acknowledge(), Some(0x34));
}

#[test]
fn a_level_interrupts_for_as_long_as_it_is_asserted() {
    let mut pic = initialized();
    pic.write(PIC_ELCR, 0xff);
    pic.write(PIC_ELCR + 1, 0xff);
    assert_eq!((pic.read(PIC_ELCR), pic.read(PIC_ELCR + 1)), (0xf8, 0xde));
    pic.set_line(5, true);
    for _ in 0..2 {
        assert_eq!(pic.acknowledge(), Some(0x35));
        assert!(!pic.intr());
        pic.write(PIC_MASTER, EOI);
    }
    pic.set_line(5, false);
    assert!(!pic.intr());
    pic.set_line(9, true);
    assert_eq!(pic.acknowledge(), Some(0x39));
    pic.set_line(9, false);
    pic.write(PIC_SLAVE, EOI);
    pic.write(PIC_MASTER, EOI);
    assert!(!pic.intr());
}

#[test]
fn higher_priority_interrupts_service_and_lower_waits() {
    let mut pic = initialized();
    pulse(&mut pic, 4);
    assert_eq!(pic.acknowledge(), Some(0x34));
    pulse(&mut pic, 6);
    assert!(!pic.intr());
    pulse(&mut pic, 1);
    assert_eq!(pic.acknowledge(), Some(0x31));
    pic.write(PIC_MASTER, 0x0b);
    assert_eq!(pic.read(PIC_MASTER), 0x12, "ISR");
    pic.write(PIC_MASTER, 0x0a);
    assert_eq!(pic.read(PIC_MASTER), 0x40, "IRR");
    pic.write(PIC_MASTER, EOI);
    assert!(!pic.intr(), "4 is still in service");
    pic.write(PIC_MASTER, 0x64);
    assert_eq!(pic.acknowledge(), Some(0x36));
}

#[test]
fn the_slave_comes_through_the_cascade() {
    let mut pic = initialized();
    pulse(&mut pic, 8);
    pulse(&mut pic, 12);
    pulse(&mut pic, 3);
    assert_eq!(pic.acknowledge(), Some(0x38));
    assert!(!pic.intr());
    pic.write(PIC_SLAVE, EOI);
    assert!(!pic.intr());
    pic.write(PIC_MASTER, EOI);
    assert_eq!(pic.acknowledge(), Some(0x3c));
    pic.write(PIC_SLAVE, EOI);
    pic.write(PIC_MASTER, EOI);
    assert_eq!(pic.acknowledge(), Some(0x33));
}

#[test]
fn special_fully_nested_mode_lets_the_slave_interrupt_itself() {
    let mut pic = initialized();
    pic.write(PIC_MASTER, 0x11);
    for word in [0x30, 0x04, 0x11] {
        pic.write(PIC_MASTER + 1, word);
    }
    pulse(&mut pic, 12);
    assert_eq!(pic.acknowledge(), Some(0x3c));
    pulse(&mut pic, 8);
    assert_eq!(pic.acknowledge(), Some(0x38));
}

#[test]
fn masks_hold_requests_back() {
    let mut pic = initialized();
    pic.write(PIC_MASTER + 1, 0xff);
    assert_eq!(pic.read(PIC_MASTER + 1), 0xff);
    pulse(&mut pic, 0);
    assert!(!pic.intr());
    pic.write(PIC_MASTER + 1, 0xfe);
    assert_eq!(pic.acknowledge(), Some(0x30));
}

#[test]
fn special_mask_mode_lets_lower_priorities_through() {
    let mut pic = initialized();
    pulse(&mut pic, 1);
    pic.acknowledge();
    pulse(&mut pic, 6);
    assert!(!pic.intr());
    pic.write(PIC_MASTER + 1, 0x02);
    pic.write(PIC_MASTER, 0x68);
    assert_eq!(pic.acknowledge(), Some(0x36));
    pic.write(PIC_MASTER, 0x66);
    pic.write(PIC_MASTER, 0x48);
    pulse(&mut pic, 6);
    assert!(!pic.intr());
}

#[test]
fn rotation_moves_the_served_input_to_the_end() {
    let mut pic = initialized();
    for irq in [0, 1] {
        pulse(&mut pic, irq);
    }
    assert_eq!(pic.acknowledge(), Some(0x30));
    pic.write(PIC_MASTER, 0xa0);
    pulse(&mut pic, 0);
    assert_eq!(pic.acknowledge(), Some(0x31));
    pic.write(PIC_MASTER, 0xe1);
    assert_eq!(pic.acknowledge(), Some(0x30));
    pic.write(PIC_MASTER, EOI);
    pic.write(PIC_MASTER, 0xc3);
    for irq in [3, 4] {
        pulse(&mut pic, irq);
    }
    assert_eq!(pic.acknowledge(), Some(0x34));
}

#[test]
fn automatic_eoi_leaves_nothing_in_service() {
    let mut pic = initialized();
    pic.write(PIC_MASTER, 0x11);
    for word in [0x30, 0x04, 0x03] {
        pic.write(PIC_MASTER + 1, word);
    }
    pic.write(PIC_MASTER, 0x80);
    for irq in [0, 1] {
        pulse(&mut pic, irq);
    }
    assert_eq!(pic.acknowledge(), Some(0x30));
    pulse(&mut pic, 0);
    assert_eq!(pic.acknowledge(), Some(0x31), "0 has rotated to the end");
    assert_eq!(pic.acknowledge(), Some(0x30));
}

#[test]
fn polling_is_an_acknowledge_cycle() {
    let mut pic = initialized();
    pic.write(PIC_MASTER, 0x0c);
    assert_eq!(pic.read(PIC_MASTER), 0);
    pulse(&mut pic, 7);
    pic.write(PIC_MASTER, 0x0c);
    assert_eq!(pic.read(PIC_MASTER), 0x87);
    assert!(!pic.intr());
    pic.write(PIC_MASTER, 0x0b);
    assert_eq!(pic.read(PIC_MASTER), 0x80);
}

#[test]
fn a_slave_request_that_goes_away_is_spurious() {
    let mut pic = initialized();
    pic.write(PIC_ELCR + 1, 0x08);
    pic.set_line(11, true);
    assert!(pic.intr());
    pic.set_line(11, false);
    assert_eq!(pic.acknowledge(), None);
}

#[test]
fn initialization_forgets_edges_and_masks() {
    let mut pic = initialized();
    pic.write(PIC_MASTER + 1, 0xf0);
    pic.set_line(4, true);
    pic.write(PIC_MASTER, 0x13);
    assert!(!pic.intr());
    pic.write(PIC_MASTER + 1, 0x50);
    pic.write(PIC_MASTER + 1, 0x01);
    assert_eq!(pic.read(PIC_MASTER + 1), 0);
    assert!(!pic.intr(), "the line must fall and rise again");
    pic.set_line(4, false);
    pic.set_line(4, true);
    assert_eq!(pic.acknowledge(), Some(0x54));
}
