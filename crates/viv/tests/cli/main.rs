//! `viv` as its users meet it: started as a program, on pipes and on terminals.

mod debian;
mod direct;
mod disk;
mod display;
mod garbage;
mod guest;
mod help;
mod host;
mod jail;
mod pmem;
mod screen;
mod share;
mod terminal;
mod usage;
