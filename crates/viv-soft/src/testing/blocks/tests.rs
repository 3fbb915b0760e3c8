use super::*;
use crate::options::{Tier, Torture};

const ENGINES: [EngineOptions; 3] = [
    EngineOptions::with_tier(Tier::Interpret),
    EngineOptions::with_tier(Tier::Translate),
    EngineOptions { torture: Some(Torture { seed: 1 }), ..EngineOptions::with_tier(Tier::Translate) },
];

#[test]
fn every_way_to_run_a_block_is_the_processors() {
    let options = Options::from_environment(6000);
    let report = compare(&options, &vcpus(&ENGINES));
    let shown: Vec<_> = report.differences.iter().take(20).map(String::as_str).collect();
    assert!(
        shown.is_empty(),
        "{} of {} blocks differ:\n{}",
        report.differences.len(),
        report.blocks,
        shown.join("\n")
    );
    // If the generator broke, there would be little to compare.
    if options.blocks >= 1000 {
        let Report { blocks, instructions, native, faults, page_faults, forms, .. } = report;
        assert!(instructions > 12 * blocks, "{instructions} instructions in {blocks} blocks");
        assert!(native > 3 * blocks / 4, "{native} of {blocks} blocks by the processor");
        assert!(faults > blocks / 12 && page_faults > blocks / 20, "{faults} faults, {page_faults} of pages");
        assert!(forms.len() > 1200, "{} forms", forms.len());
    }
}

/// The interpreter with a mistake: after a block with SBB, a bit of RDX is wrong.
struct Wrong(Stepped);

impl Executor for Wrong {
    fn name(&self) -> String {
        "wrong".to_owned()
    }

    fn execute(&mut self, block: &Block, code: &Code) -> std::result::Result<Option<Outcome>, String> {
        let mut outcome = self.0.execute(block, code)?;
        let is_wrong = code.instructions.iter().any(|i| i.mnemonic() == iced_x86::Mnemonic::Sbb);
        if let Some(outcome) = outcome.as_mut().filter(|_| is_wrong) {
            outcome.state.gpr[2] ^= 1;
        }
        Ok(outcome)
    }
}

#[test]
fn a_mistake_is_found_and_its_block_made_small() {
    let options = Options { blocks: 30, seed: 0, mode: Some(Mode::Bits64), strict: true };
    let make: Box<Make> = Box::new(|mode| Box::new(Wrong(Stepped::new(mode))));
    let report = compare(&options, &[make]);
    assert!(!report.differences.is_empty());
    for text in &report.differences {
        assert!(text.starts_with("stepped and wrong differ: VIV_DIFF_BITS=64 VIV_DIFF_SEED="), "{text}");
        // A heading, the instruction, all bytes, the layout, RDX, the state before.
        assert!(text.lines().count() == 6 && text.contains("sbb") && text.contains("gpr 2:"), "{text}");
    }
}
