//go:build devtee

// Package stack puts the demo together: a simulated cloud whose servers are real
// QEMU guests, a simulated processor that measures what QEMU was given, an
// OpenID issuer, and the real daemon as a process of its own with a real
// configuration file. The tests of the whole path run on it too.
//
// It owns a directory with everything it writes, and the processes it starts; all
// of them end with it. It also plays the hostile operator: it can boot a clone of
// a guest, or the guest with another command line, behind the cloud's back.
package stack
