//! The build script's own tests: what of the programs LLVM leaves to chance.

#[path = "../build/btf.rs"]
mod btf;
