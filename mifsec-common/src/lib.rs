#![no_std]
//! What crosses the kernel line.
