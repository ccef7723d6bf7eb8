//go:build devtee

// Package labpsp gives the guests of a real Nova a simulated secure processor: for every running libvirt domain it
// connects to the host's end of the guest-agent port and answers the guest's requests for reports. It is compiled into
// development builds only.
//
// It owns no domain and changes none; it reads what `virsh` says and the kernel and initrd files that libvirt names.
//
// Invariants:
//   - what is measured is libvirt's description of the domain that asks, and the bytes of the files it names, taken when
//     the domain is first seen; nothing that the guest says of itself enters, but its report data;
//   - one start of a domain is one launch with a REPORT_ID of its own; a guest that resets itself gets no more reports,
//     since hardware cannot reset an encrypted guest either;
//   - a domain without direct kernel boot is answered with an error, never with a measurement.
//
// libvirt opens the same port when the guest does, and QEMU serves one client at a time; hence domains are looked for
// several times a second, to be first. libvirt then finds its agent mute and shuts guests down by the power button.
package labpsp
