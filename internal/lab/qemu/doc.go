// Package qemu starts one guest as Nova's libvirt driver would start it: a
// kernel, an initrd and a command line given to QEMU directly, virtio disks that
// carry a serial, one virtio network card, the guest-agent port, and a serial
// console that ends in a file. It always emulates (TCG), because a laboratory has
// no confidential hardware and often no KVM.
//
// It owns the QEMU process and nothing else: files and sockets named in a Spec
// belong to the caller, and stay after the guest has ended.
//
// Invariants:
//   - no guest outlives its parent: the kernel kills QEMU when the program that
//     started it dies, however it dies;
//   - what a Machine reports as its Spec is what QEMU was given, so that a
//     simulated measurement over it says something about the guest;
//   - a guest that resets itself ends, it does not boot a second time.
//
// It is for laboratories and tests. The user-mode network lets a guest reach
// everything that the host can reach; it isolates nothing.
package qemu
