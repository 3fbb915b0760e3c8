//! Files as memory that outlasts the guest.

use std::fs;
use std::path::{Path, PathBuf};

use viv_vmm::config::PmemConfig;

use crate::cli::RunArgs;
use crate::failure::Failure;
use crate::session::Plan;

/// The files of a machine with their lengths at its start. One that is made shorter takes memory away from the VM process,
/// which dies of it.
#[derive(Debug)]
pub struct Lengths(Vec<(PathBuf, u64)>);

/// Gives the machine the files that are asked for.
pub fn add(args: &RunArgs, plan: &mut Plan) -> Lengths {
    plan.config.pmems.clone_from(&args.pmem);
    // What cannot be looked at is no file that the machine could have.
    let length = |PmemConfig { path, .. }: &PmemConfig| Some((path.clone(), length(path)?));
    Lengths(args.pmem.iter().filter_map(length).collect())
}

impl Lengths {
    /// Adds to why a machine has ended which file was made shorter, if one was.
    pub fn explain(&self, failure: Failure) -> Failure {
        let shorter = self.0.iter().find_map(|(path, before)| {
            let now = length(path).filter(|now| now < before)?;
            Some(format!(
                "--pmem {} had {before} bytes and was cut to {now} while it was the guest's memory",
                path.display()
            ))
        });
        match shorter {
            Some(why) => failure.remedy(why),
            None => failure,
        }
    }
}

fn length(path: &Path) -> Option<u64> {
    Some(fs::metadata(path).ok()?.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_became_shorter_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("data");
        let set = |bytes| fs::write(&path, vec![0; bytes]).expect("written");
        set(200);
        let lengths = Lengths(vec![(path.clone(), 200)]);
        assert_eq!(lengths.explain(Failure::line("it died")).to_string(), "it died");
        set(100);
        let line = lengths.explain(Failure::line("it died")).to_string();
        let expected = format!(
            "it died; --pmem {} had 200 bytes and was cut to 100 while it was the guest's memory",
            path.display()
        );
        assert_eq!(line, expected);
    }
}
