//! What there is to run.

/// A program, or many of a kind, as a script.
#[derive(Debug)]
pub struct Program {
    /// What it is called.
    pub name: &'static str,
    /// What `sh` runs, in an empty directory.
    script: &'static str,
    /// Files that it finds there: names and contents.
    files: &'static [(&'static str, &'static str)],
    /// Processors of the guest.
    pub processors: u32,
    /// Whether it is done soon enough to be run tortured, which takes some 20 times as long.
    pub is_short: bool,
}

macro_rules! text {
    ($name:literal) => {
        include_str!(concat!("../../guest/workouts/", $name))
    };
}

/// All of them, in the order in which they run.
pub const PROGRAMS: &[Program] = &[
    Program { is_short: true, ..alone("stress-cpu", text!("stress-cpu.sh"), &[]) },
    alone("math", text!("math.sh"), &[("math.c", text!("math.c"))]),
    Program {
        is_short: true,
        ..alone("luajit", text!("luajit.sh"), &[("programs.lua", text!("programs.lua"))])
    },
    Program { processors: 2, ..alone("node", text!("node.sh"), &[("programs.js", text!("programs.js"))]) },
    Program {
        processors: 2,
        ..alone("java", text!("java.sh"), &[("Programs.java", text!("Programs.java"))])
    },
    alone("valgrind", text!("valgrind.sh"), &[("programs.lua", text!("programs.lua"))]),
    Program { is_short: true, ..alone("gdb", text!("gdb.sh"), &[]) },
    alone("openssl", text!("openssl.sh"), &[]),
    alone("openssl-speed", text!("openssl-speed.sh"), &[]),
    Program { processors: 4, ..alone("stress", text!("stress.sh"), &[]) },
    Program { processors: 4, ..alone("compile", text!("compile.sh"), &[]) },
    alone("python", text!("python.sh"), &[]),
];

/// One that needs no more than a processor and takes its time.
const fn alone(
    name: &'static str,
    script: &'static str,
    files: &'static [(&'static str, &'static str)],
) -> Program {
    Program { name, script, files, processors: 1, is_short: false }
}

/// No line of any file.
const END: &str = "@@@ end of file @@@";

impl Program {
    /// Everything as one script, which writes the files first.
    pub fn bundle(&self) -> String {
        let file = |&(name, content): &(&str, &str)| format!("cat > {name} <<'{END}'\n{content}{END}\n");
        self.files.iter().map(file).chain([self.script.to_owned()]).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    #[test]
    fn names_are_apart_and_files_end_where_they_should() {
        for (index, program) in PROGRAMS.iter().enumerate() {
            assert!(PROGRAMS[..index].iter().all(|other| other.name != program.name), "{}", program.name);
            for (name, content) in program.files {
                assert!(content.ends_with('\n') && !content.contains(END), "{name}");
            }
        }
    }

    #[test]
    fn a_bundle_writes_its_files_before_it_runs() {
        let home = std::env::temp_dir().join(format!("viv-xtask-bundle-{}", std::process::id()));
        fs::create_dir_all(&home).unwrap();
        let program = alone("p", "cat two one", &[("one", "$x `y`\n"), ("two", "2\n")]);
        let shell = Command::new("sh").args(["-c", &program.bundle()]).current_dir(&home).output().unwrap();
        fs::remove_dir_all(&home).unwrap();
        assert_eq!(String::from_utf8_lossy(&shell.stdout), "2\n$x `y`\n");
    }
}
