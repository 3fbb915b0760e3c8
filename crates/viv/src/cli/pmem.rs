//! `--pmem`.

use viv_vmm::config::PmemConfig;

/// Reads `FILE` or `FILE,readonly`. A file whose name holds a comma is given with an option behind it, `readonly` or
/// `writable`.
pub(super) fn parse(text: &str) -> Result<PmemConfig, String> {
    let (path, readonly) = match text.rsplit_once(',') {
        None => (text, false),
        Some((path, "readonly")) => (path, true),
        Some((path, "writable")) => (path, false),
        Some((_, option)) => {
            return Err(format!("the option '{option}' is not known; 'readonly' and 'writable' are"));
        }
    };
    if path.is_empty() {
        return Err("no file is named; give FILE, or FILE,readonly".to_owned());
    }
    Ok(PmemConfig { path: path.into(), readonly })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_at_most_one_option() {
        let parsed = |text| parse(text).map(|PmemConfig { path, readonly }| (path, readonly));
        assert_eq!(parsed("data.img"), Ok(("data.img".into(), false)));
        assert_eq!(parsed("data.img,readonly"), Ok(("data.img".into(), true)));
        assert_eq!(parsed("a,b,writable"), Ok(("a,b".into(), false)));
        for bad in ["", ",readonly", "a,b", "a,size=1G"] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }
}
