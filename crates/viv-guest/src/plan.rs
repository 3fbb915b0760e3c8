//! What to run and in which environment.

use std::ffi::OsString;

use viv_guest_proto::Run;

/// The shell of a system whose `/etc/passwd` names none.
const FALLBACK_SHELL: &str = "/bin/sh";
const HOME: &str = "/root";

/// A program to start.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// Looked up in `PATH` if it has no slash.
    pub(crate) file: OsString,
    /// Arguments after the program's own name.
    pub(crate) args: Vec<OsString>,
    /// Start it as login shells are, with a dash before its name.
    pub(crate) login: bool,
}

/// The program that the host asks for; root's shell by default.
pub(crate) fn program(run: &Run, passwd: &str) -> Program {
    match run.argv.as_deref() {
        Some([file, args @ ..]) => Program { file: file.clone(), args: args.to_vec(), login: false },
        Some([]) | None => {
            Program { file: root_shell(passwd).into(), args: Vec::new(), login: run.terminal.is_some() }
        }
    }
}

/// Its environment: what a root login on this system gives, and the host's variables over it.
pub(crate) fn environment(run: &Run, passwd: &str) -> Vec<(OsString, OsString)> {
    let mut variables: Vec<(OsString, OsString)> = [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", HOME),
        ("USER", "root"),
        ("LOGNAME", "root"),
        ("SHELL", root_shell(passwd)),
        ("LANG", "C.UTF-8"),
    ]
    .map(|(name, value)| (name.into(), value.into()))
    .into();
    if let Some(terminal) = &run.terminal {
        variables.push(("TERM".into(), terminal.term.clone().into()));
    }
    // Later entries win where the list is turned into an environment.
    variables.extend(run.env.iter().cloned());
    variables
}

/// The directory to start in.
pub(crate) fn directory(run: &Run) -> &str {
    run.cwd.as_deref().unwrap_or(HOME)
}

/// The shell of the first user with number 0 (passwd(5)).
fn root_shell(passwd: &str) -> &str {
    passwd
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':').skip(2);
            let (user, shell) = (fields.next()?, fields.nth(3)?);
            (user == "0" && !shell.is_empty()).then_some(shell)
        })
        .next()
        .unwrap_or(FALLBACK_SHELL)
}

#[cfg(test)]
mod tests {
    use viv_guest_proto::Terminal;

    use super::*;

    const PASSWD: &str = "daemon:x:1:1::/:/usr/sbin/nologin\nroot:x:0:0:root:/root:/bin/bash\n";

    #[test]
    fn shells_come_from_the_user_list() {
        assert_eq!(root_shell(PASSWD), "/bin/bash");
        assert_eq!(root_shell("root:x:0:0:root:/root:"), FALLBACK_SHELL);
        assert_eq!(root_shell("root:x\n:::::::\n"), FALLBACK_SHELL);
    }

    #[test]
    fn without_arguments_it_is_a_shell_and_a_login_shell_on_a_terminal() {
        let plain = Run::default();
        assert_eq!(program(&plain, PASSWD), Program { file: "/bin/bash".into(), args: vec![], login: false });
        let terminal = Some(Terminal { term: "xterm".into(), size: None });
        assert!(program(&Run { argv: Some(vec![]), terminal, ..plain }, PASSWD).login);
    }

    #[test]
    fn the_hosts_variables_come_last() {
        let run = Run { env: vec![("LANG".into(), "C".into())], ..Run::default() };
        let variables = environment(&run, PASSWD);
        assert_eq!(variables.last(), Some(&("LANG".into(), "C".into())));
        assert!(!variables.iter().any(|(name, _)| name == "TERM"));
    }
}
