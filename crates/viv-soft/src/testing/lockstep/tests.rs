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
}
