use super::*;

#[test]
fn every_engine_brings_a_world_to_the_same_end() {
    let options = Options::from_environment(300);
    let report = compare(&options);
    assert!(
        report.differences.is_empty(),
        "{} of {} worlds differ:\n{}",
        report.differences.len(),
        report.worlds,
        report.differences.join("\n")
    );
    println!("{report:?}");
    // If worlds were not what they should be, there would be little to compare.
    if report.worlds >= 100 {
        let Report { worlds, stopped, endless, unsteady, dead_flags, events, .. } = report;
        assert!(
            20 * (endless + unsteady + dead_flags) < worlds,
            "{endless} {unsteady} {dead_flags} of {worlds}"
        );
        assert!(
            stopped > 3 * worlds / 4 && events > 10 * worlds,
            "{stopped} of {worlds} stop, {events} events"
        );
    }
}
