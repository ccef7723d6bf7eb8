// Package cloudsim is a small cloud behind one HTTP handler: the calls of Keystone, Nova, Cinder, Neutron, Glance and
// Barbican that siestad makes, with the state that they change and the refusals that the real services answer.
//
// It owns its state, in memory behind one lock, and the files of volumes, images and consoles in one directory. Where a
// Boot function is given, an ACTIVE server is a real machine that was started with exactly what Nova would have given it:
// kernel, initrd and command line of the root volume's image metadata as they were when the server was created.
//
// It is held to the real services by internal/openstack/conformance, which runs against both; DIFFERENCES.md lists what
// differs and why. It trusts its caller's machine: it is for development, tests and load, and links into nothing that
// runs in production.
package cloudsim
