// Package guest is the life of one confidential guest between its kernel and its
// open disk: read the measured line, prove itself to the broker, open (or once make)
// the data volume, keep the lease, and leave nothing open when it ends.
//
// # What holds
//
//   - Nothing is done that B has not signed, where B is the broker key whose hash stands
//     in the measured line. The transport is not trusted for anything, TLS or not.
//   - Only the siesta.* words of the command line count; one that appears twice, is
//     malformed or is missing ends the guest.
//   - The disk is formatted only under a grant that says initialise. After formatting,
//     the guest writes nothing more before B has signed that it recorded the header's hash.
//   - The volume is open only while a lease is: a refused renewal, or a lease that ran out
//     because nobody answered, closes it and powers the machine off. Time is measured
//     from the broker's signed times with the monotonic clock, and counted from before the
//     question was sent: the guest's lease never ends after the broker's. The wall clock is
//     the host's.
//   - The keys of a boot (HPKE and signing) exist in memory only, and one boot has one pair.
//   - What is printed or reported holds no key, nonce, report or header byte.
//
// # What it trusts
//
// The measured kernel and initrd, the processor behind the Reporter, and B. The host
// may stop the guest, show it any disk and any network, and set its clock.
//
// Subpackages: luks is the volume, machine is the user space. What differs between a guest
// and a test (the report, the volume) comes in through Reporter and Volume.
package guest
