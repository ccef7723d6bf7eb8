// Package image owns guest images: the kernel, initrd and firmware file that a
// workspace's launch digest is computed from.
//
//	draft ──register──▶ registered ──approve──▶ approved
//	  │                      │                      │
//	  └──────────────────────┴──────withdraw────────┴──▶ withdrawn
//
// An operator uploads the three files and registers the image; a custodian
// approves it. Whoever made or registered an image never approves it: the
// service refuses and a CHECK in the database refuses again. Files are
// immutable and named by their SHA-256; a registered image cannot change.
//
// The package trusts its caller to have authorised the role; it decides itself
// that two different people are at work.
package image
