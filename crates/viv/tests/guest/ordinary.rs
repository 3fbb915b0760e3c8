//! A user who is not root, with images that root has built.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;

use rustix::process::geteuid;

use crate::debian::viv;
use crate::ended::feed;

/// A user that nobody is.
const STRANGER: u32 = 54_321;

#[test]
fn an_ordinary_user_runs_an_image_of_roots() {
    let program = Path::new(env!("CARGO_BIN_EXE_viv"));
    let open = |path: &Path| fs::metadata(path).is_ok_and(|found| found.mode() & 0o001 != 0);
    if !geteuid().is_root() || !program.ancestors().all(open) {
        // Past the capture of output: nobody reads the output of a test that passes.
        let why = "it takes root, and a program that others can reach";
        let _ = writeln!(std::io::stderr(), "NOT TESTED: images of another user: {why}");
        return;
    }
    let mut viv = viv(&["run", "debian", "--", "sh", "-c", "echo kept > /root/file; cat /root/file; id -u"]);
    let ended = feed(viv.uid(STRANGER).gid(STRANGER), b"");
    assert_eq!(ended.status, 0, "{ended:?}");
    assert_eq!(ended.text(), "kept\n0\n", "root in the guest, nobody outside");
}
