//! What `viv run --stats` says at the end.

use serde_json::json;
use viv_vmm::protocol::Figures;

use crate::cli::Output;

const SECOND: f64 = 1e9;

/// The figures of a machine that is over in one line, for people or for programs.
pub fn line(form: Output, figures: Option<Figures>) -> String {
    match (form, figures) {
        (Output::Json, figures) => json!({ "figures": figures }).to_string(),
        (Output::Table, Some(figures)) => text(&figures),
        (Output::Table, None) => "viv: the machine left no figures".to_owned(),
    }
}

fn text(figures: &Figures) -> String {
    let vcpu = figures.vcpu_nanoseconds as f64 / SECOND;
    let guest = figures.guest_nanoseconds as f64 / SECOND;
    let work = match figures.instructions {
        Some(instructions) if figures.vcpu_nanoseconds > 0 => {
            let millions = instructions as f64 / 1e6;
            format!("{millions:.1} million instructions, {:.1} million a second", millions / vcpu)
        }
        _ => "instructions not counted".to_owned(),
    };
    let translated = match (figures.translated, figures.evictions) {
        (Some(pieces), Some(evictions)) => format!("; {pieces} pieces translated, {evictions} evictions"),
        _ => String::new(),
    };
    format!("viv: {work}; {vcpu:.2} s of processor time, {guest:.2} s of guest time{translated}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIGURES: Figures = Figures {
        instructions: Some(90_000_000),
        translated: None,
        evictions: None,
        vcpu_nanoseconds: 2_000_000_000,
        guest_nanoseconds: 3_000_000_000,
    };

    #[test]
    fn the_rate_is_by_processor_time() {
        assert_eq!(
            line(Output::Table, Some(FIGURES)),
            "viv: 90.0 million instructions, 45.0 million a second; \
             2.00 s of processor time, 3.00 s of guest time"
        );
        let idle = Figures { vcpu_nanoseconds: 0, ..FIGURES };
        assert!(line(Output::Table, Some(idle)).contains("not counted"));
        let translated = Figures { translated: Some(12), evictions: Some(3), ..FIGURES };
        assert!(line(Output::Table, Some(translated)).ends_with("time; 12 pieces translated, 3 evictions"));
    }

    #[test]
    fn programs_get_the_numbers() {
        assert_eq!(
            line(Output::Json, Some(FIGURES)),
            r#"{"figures":{"evictions":null,"guest_nanoseconds":3000000000,"instructions":90000000,"translated":null,"vcpu_nanoseconds":2000000000}}"#
        );
        assert_eq!(line(Output::Json, None), r#"{"figures":null}"#);
    }
}
