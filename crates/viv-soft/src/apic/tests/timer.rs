//! The timer. At 2.5 GHz, with divider 1, a count is two and a half ticks of the TSC.

use super::*;

const DIVIDE_BY_1: u32 = 0b1011;

fn with_timer(lvt: u32) -> LocalApic {
    let mut apic = apic(0);
    apic.set(reg::LVT_TIMER, lvt);
    apic.set(reg::TIMER_DIVIDE, DIVIDE_BY_1);
    apic
}

/// Whether the timer's interrupt, vector 0x40, is raised at `tsc`; it is then handled.
fn fires(apic: &mut LocalApic, tsc: u64) -> bool {
    apic.timer_tick(tsc);
    let fired = apic.pending() == Some(0x40);
    if fired {
        assert_eq!(apic.acknowledge(), 0x40);
        assert_eq!(apic.eoi(), None);
    }
    fired
}

#[test]
fn one_shot_fires_once() {
    let mut apic = with_timer(0x40);
    apic.set_at(reg::TIMER_INITIAL, 1000, 50_000);
    assert_eq!(apic.next_deadline(), Some(52_500));
    assert_eq!(apic.get_at(reg::TIMER_CURRENT, 50_000), 1000);
    assert_eq!(apic.get_at(reg::TIMER_CURRENT, 51_250), 500);
    assert!(!fires(&mut apic, 52_499));
    assert_eq!(apic.get_at(reg::TIMER_CURRENT, 52_499), 1);
    assert!(fires(&mut apic, 52_500));
    assert_eq!(apic.get_at(reg::TIMER_CURRENT, 60_000), 0);
    assert_eq!(apic.get(reg::TIMER_INITIAL), 1000);
    assert!(!fires(&mut apic, 1_000_000));
    assert_eq!(apic.next_deadline(), None);
}

#[test]
fn writing_0_stops_it_and_writing_again_restarts_it() {
    let mut apic = with_timer(0x40);
    apic.set_at(reg::TIMER_INITIAL, 1000, 0);
    apic.set_at(reg::TIMER_INITIAL, 2000, 2000);
    assert!(!fires(&mut apic, 6999));
    assert_eq!(apic.next_deadline(), Some(7000));
    apic.set_at(reg::TIMER_INITIAL, 0, 6999);
    assert_eq!(apic.next_deadline(), None);
    assert!(!fires(&mut apic, 1_000_000));
}

#[test]
fn the_divider_has_its_odd_encoding() {
    let dividers =
        [(0b0000, 2), (0b0001, 4), (0b0010, 8), (0b0011, 16), (0b1000, 32), (0b1001, 64), (0b1010, 128)];
    for (bits, divider) in dividers.into_iter().chain([(0b1011, 1)]) {
        let mut apic = with_timer(0x40);
        apic.set(reg::TIMER_DIVIDE, bits | 0b0100);
        assert_eq!(apic.get(reg::TIMER_DIVIDE), bits);
        apic.set_at(reg::TIMER_INITIAL, 100, 0);
        assert_eq!(apic.next_deadline(), Some(250 * divider), "{bits:#b}");
    }
}

#[test]
fn a_new_divider_holds_from_where_the_count_is() {
    let mut apic = with_timer(0x40);
    apic.set_at(reg::TIMER_INITIAL, 1000, 0);
    apic.set_at(reg::TIMER_DIVIDE, 0b0000, 1000);
    assert_eq!(apic.get_at(reg::TIMER_CURRENT, 1000), 600);
    assert_eq!(apic.next_deadline(), Some(1000 + 600 * 5));
}

#[test]
fn periodic_keeps_its_rhythm_and_catches_up_with_one_interrupt() {
    let mut apic = with_timer(0x40 | PERIODIC);
    apic.set_at(reg::TIMER_INITIAL, 1_000_001, 0);
    let period = |n: u64| (n * 5 * 1_000_001).div_ceil(2);
    for n in 1..100 {
        assert_eq!(apic.next_deadline(), Some(period(n)), "no rounding adds up");
        assert!(!fires(&mut apic, period(n) - 1));
        assert!(fires(&mut apic, period(n)));
    }
    assert!(fires(&mut apic, period(1000) + 7));
    assert!(!fires(&mut apic, period(1000) + 8));
    assert_eq!(apic.next_deadline(), Some(period(1001)));
    assert_eq!(apic.get_at(reg::TIMER_CURRENT, period(1000)), 1_000_001);
    assert_eq!(apic.get_at(reg::TIMER_CURRENT, period(1000) + 2500), 999_001);
}

#[test]
fn a_period_too_short_is_lengthened() {
    let mut apic = with_timer(0x40 | PERIODIC);
    apic.set_at(reg::TIMER_INITIAL, 1, 0);
    assert_eq!(apic.next_deadline(), Some(250_000), "100 µs");
    assert!(fires(&mut apic, 250_000));
    assert!(!fires(&mut apic, 499_999));
    assert!(fires(&mut apic, 500_000));
    assert!(apic.get_at(reg::TIMER_CURRENT, 500_001) <= 1);
}

#[test]
fn a_masked_timer_runs_but_does_not_interrupt() {
    let mut apic = with_timer(0x40 | MASKED);
    apic.set_at(reg::TIMER_INITIAL, 1000, 0);
    assert_eq!(apic.next_deadline(), None);
    assert_eq!(apic.get_at(reg::TIMER_CURRENT, 1250), 500);
    apic.set_at(reg::LVT_TIMER, 0x40, 2000);
    assert_eq!(apic.next_deadline(), Some(2500));
    apic.set_at(reg::LVT_TIMER, 0x40 | MASKED, 2001);
    apic.set_at(reg::LVT_TIMER, 0x40, 3000);
    assert!(!fires(&mut apic, 10_000), "it ran out while masked");
}

#[test]
fn what_was_due_before_a_change_still_comes() {
    let mut apic = with_timer(0x40);
    apic.set_at(reg::TIMER_INITIAL, 1000, 0);
    apic.set_at(reg::TIMER_INITIAL, 1000, 5000);
    assert_eq!(apic.pending(), Some(0x40));
}

#[test]
fn tsc_deadline_fires_once_and_reads_0_after() {
    let mut apic = with_timer(0x40 | TSC_DEADLINE);
    apic.set_tsc_deadline(10_000, 0);
    assert_eq!((apic.tsc_deadline(), apic.next_deadline()), (10_000, Some(10_000)));
    assert!(!fires(&mut apic, 9_999));
    assert!(fires(&mut apic, 10_000));
    assert_eq!((apic.tsc_deadline(), apic.next_deadline()), (0, None));
    apic.set_tsc_deadline(5, 20_000);
    assert!(fires(&mut apic, 20_000), "a deadline in the past fires at once");
    apic.set_tsc_deadline(50_000, 20_000);
    apic.set_tsc_deadline(0, 20_000);
    assert!(!fires(&mut apic, 100_000), "0 disarms");
    apic.set_tsc_deadline(u64::MAX, 0);
    assert!(!fires(&mut apic, u64::MAX - 1) && fires(&mut apic, u64::MAX));
}

#[test]
fn the_modes_do_not_share() {
    let mut apic = with_timer(0x40);
    apic.set_tsc_deadline(10_000, 0);
    assert_eq!(apic.tsc_deadline(), 0, "without effect in other modes");
    apic.set_at(reg::TIMER_INITIAL, 1000, 0);
    apic.set_at(reg::LVT_TIMER, 0x40 | TSC_DEADLINE, 100);
    assert_eq!((apic.get(reg::TIMER_INITIAL), apic.get_at(reg::TIMER_CURRENT, 100)), (0, 0));
    assert_eq!(apic.next_deadline(), None);
    apic.set_at(reg::TIMER_INITIAL, 1000, 100);
    assert_eq!(apic.get(reg::TIMER_INITIAL), 0);
    apic.set_tsc_deadline(10_000, 100);
    apic.set_at(reg::LVT_TIMER, 0x40 | PERIODIC, 200);
    assert_eq!((apic.tsc_deadline(), apic.next_deadline()), (0, None));
}

#[test]
fn one_shot_becomes_periodic_from_where_it_is() {
    let mut apic = with_timer(0x40);
    apic.set_at(reg::TIMER_INITIAL, 1_000_000, 0);
    apic.set_at(reg::LVT_TIMER, 0x40 | PERIODIC, 1_000_000);
    assert!(fires(&mut apic, 2_500_000));
    assert!(!fires(&mut apic, 4_999_999) && fires(&mut apic, 5_000_000));
    apic.set_at(reg::LVT_TIMER, 0x40, 6_000_000);
    assert!(fires(&mut apic, 7_500_000));
    assert!(!fires(&mut apic, 1 << 40));
}

#[test]
fn the_reserved_mode_is_silent() {
    let mut apic = with_timer(0x40 | PERIODIC | TSC_DEADLINE);
    apic.set_at(reg::TIMER_INITIAL, 1000, 0);
    apic.set_tsc_deadline(1000, 0);
    assert_eq!(apic.next_deadline(), None);
    assert!(!fires(&mut apic, u64::MAX >> 2));
}

#[test]
fn moving_the_tsc_moves_the_deadline_but_not_the_count() {
    let mut apic = with_timer(0x40);
    apic.set_at(reg::TIMER_INITIAL, 1000, 100);
    apic.adjust_tsc(-5000);
    assert_eq!(apic.get_at(reg::TIMER_CURRENT, 1350u64.wrapping_sub(5000)), 500);
    apic.adjust_tsc(1_005_000);
    assert_eq!(apic.next_deadline(), Some(1_002_600));
    let mut apic = with_timer(0x40 | TSC_DEADLINE);
    apic.set_tsc_deadline(10_000, 0);
    apic.adjust_tsc(5_000);
    assert_eq!(apic.next_deadline(), Some(10_000));
}
