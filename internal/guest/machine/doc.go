// Package machine is what a distribution's user space would do for siesta-guest if
// there were one: mounts, kernel modules, one network card by DHCP, the power
// button, disks by serial, power off. It is Linux only and mostly for process 1.
//
// Invariants:
//   - after Prepare no further kernel module can be loaded, no other kernel can be
//     started, no core is dumped, and the magic key does nothing (over a serial
//     console it would print registers to whoever owns the host);
//   - everything read here (DHCP answers, serials, the clock) comes from the host and
//     proves nothing; it decides only whether the guest can work.
package machine
