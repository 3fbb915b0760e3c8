//! What `viv run --stats` says at the end.

use std::fmt::Write;

use serde_json::json;
use viv_engine::Translations;
use viv_vmm::protocol::Figures;

use crate::cli::Output;

const SECOND: f64 = 1e9;

/// The figures of a machine that is over, for people or, in one line, for programs.
pub fn text(form: Output, figures: Option<Figures>) -> String {
    match (form, figures) {
        (Output::Json, figures) => json!({ "figures": figures }).to_string(),
        (Output::Table, Some(figures)) => table(&figures),
        (Output::Table, None) => "viv: the machine left no figures".to_owned(),
    }
}

fn table(figures: &Figures) -> String {
    let vcpu = figures.vcpu_nanoseconds as f64 / SECOND;
    let guest = figures.guest_nanoseconds as f64 / SECOND;
    let work = match figures.instructions {
        Some(instructions) if figures.vcpu_nanoseconds > 0 => {
            let millions = instructions as f64 / 1e6;
            format!("{millions:.1} million instructions, {:.1} million a second", millions / vcpu)
        }
        _ => "instructions not counted".to_owned(),
    };
    let mut text = format!("viv: {work}; {vcpu:.2} s of processor time, {guest:.2} s of guest time");
    if let Some(translations) = &figures.translations {
        text.push_str(&translated(translations));
    }
    text
}

/// What a translator did, a line for each of its parts.
fn translated(t: &Translations) -> String {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let mut text = String::new();
    let _ = write!(
        text,
        "\nviv: translated: {} traces of {} instructions in {:.2} s, to {:.1} MiB of code and {:.1} MiB that seldom \
         runs; {} blocks decoded, {} evictions",
        t.traces,
        t.instructions,
        t.nanoseconds as f64 / SECOND,
        mib(t.bytes),
        mib(t.seldom_bytes),
        t.blocks,
        t.evictions
    );
    let _ = write!(
        text,
        "\nviv: memory: {} page-table walks, {} TLB lookups by translated code, {} mappings in the window",
        t.walks, t.lookups, t.mappings
    );
    let _ = write!(
        text,
        "\nviv: interpreted for translated code: {} accesses, {} indirect branches, {} other instructions",
        t.access_detours, t.branch_detours, t.instruction_detours
    );
    let _ = write!(
        text,
        "\nviv: translated code left: {} times by an edge, {} behind an interpreted instruction, {} for an exception",
        t.left_by_edge, t.left_interpreted, t.left_by_fault
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIGURES: Figures = Figures {
        instructions: Some(90_000_000),
        translations: None,
        vcpu_nanoseconds: 2_000_000_000,
        guest_nanoseconds: 3_000_000_000,
    };

    #[test]
    fn the_rate_is_by_processor_time() {
        assert_eq!(
            text(Output::Table, Some(FIGURES)),
            "viv: 90.0 million instructions, 45.0 million a second; \
             2.00 s of processor time, 3.00 s of guest time"
        );
        let idle = Figures { vcpu_nanoseconds: 0, ..FIGURES };
        assert!(text(Output::Table, Some(idle)).contains("not counted"));
    }

    #[test]
    fn what_was_translated_has_its_own_lines() {
        let translations = Translations {
            traces: 12,
            instructions: 70,
            bytes: 3 << 19,
            evictions: 3,
            ..Translations::default()
        };
        let text = text(Output::Table, Some(Figures { translations: Some(translations), ..FIGURES }));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 5);
        assert!(lines[1].contains("12 traces of 70 instructions in 0.00 s, to 1.5 MiB"), "{text}");
        assert!(lines[1].ends_with("3 evictions"), "{text}");
    }

    #[test]
    fn programs_get_the_numbers() {
        assert_eq!(
            text(Output::Json, Some(FIGURES)),
            r#"{"figures":{"guest_nanoseconds":3000000000,"instructions":90000000,"translations":null,"vcpu_nanoseconds":2000000000}}"#
        );
        assert_eq!(text(Output::Json, None), r#"{"figures":null}"#);
    }
}
