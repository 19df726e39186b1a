//! The decisions of the programs over anything readable; host-tested.
#![no_std]
