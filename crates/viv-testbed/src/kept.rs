//! Files that take long to build and are kept beside a note of what they were made of.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use viv_image::files;

/// The file `name` in `directory`, built if there is none that was made of `made_of`.
///
/// `build` gets an empty directory to work in, which is removed afterwards unless it fails, and the file to write.
/// Processes that want the same file wait for the one that builds it.
///
/// # Errors
/// If it cannot be built or noted.
pub fn provide(
    directory: &Path,
    name: &str,
    made_of: &str,
    build: impl FnOnce(&Path, &Path) -> Result<()>,
) -> Result<PathBuf> {
    make(directory)?;
    // Tools run in directories of their own.
    let directory =
        fs::canonicalize(directory).with_context(|| format!("finding {}", directory.display()))?;
    let file = directory.join(name);
    let beside = |extension: &str| file.with_extension(extension);
    let lock = beside("lock");
    let lock = File::create(&lock).with_context(|| format!("creating {}", lock.display()))?;
    lock.lock().with_context(|| format!("waiting for another build of {}", file.display()))?;

    let note = beside("made-of");
    if fs::read_to_string(&note).is_ok_and(|kept| kept == made_of) && file.exists() {
        return Ok(file);
    }
    // From here on there is none, until there is all of it.
    write(&note, "")?;
    let workplace = beside("building");
    files::remove_tree(&workplace)?;
    make(&workplace)?;
    build(&workplace, &file).with_context(|| format!("building {}", file.display()))?;
    files::remove_tree(&workplace)?;
    write(&note, made_of)?;
    Ok(file)
}

fn make(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn what_is_made_of_the_same_is_kept_and_else_built_anew() {
        let home = tempfile::tempdir().unwrap();
        let provide = |made_of: &str, content: &str| {
            let file = provide(home.path(), "a.disk", made_of, |workplace, file| {
                fs::write(workplace.join("scratch"), "").unwrap();
                Ok(fs::write(file, content)?)
            });
            fs::read_to_string(file.unwrap()).unwrap()
        };
        assert_eq!(provide("flour", "one"), "one");
        assert_eq!(provide("flour", "two"), "one");
        assert_eq!(provide("sugar", "two"), "two");
        assert!(!home.path().join("a.building").exists());
    }

    #[test]
    fn a_build_that_failed_is_none() {
        let home = tempfile::tempdir().unwrap();
        let fail = |_: &Path, file: &Path| {
            fs::write(file, "half")?;
            bail!("the oven is cold")
        };
        assert!(provide(home.path(), "a.disk", "flour", fail).is_err());
        let built = provide(home.path(), "a.disk", "flour", |_, file| Ok(fs::write(file, "whole")?));
        assert_eq!(fs::read_to_string(built.unwrap()).unwrap(), "whole");
    }
}
