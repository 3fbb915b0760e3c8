//! `viv` as its users meet it: started as a program, on pipes and on terminals.

mod direct;
mod guest;
mod help;
mod terminal;
mod usage;
