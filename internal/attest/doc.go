// Package attest turns the evidence of a confidential guest into a verdict.
//
// Verify is a pure function of evidence, collateral, policy and time: it opens
// no socket, reads no clock and keeps nothing, so a decision that was stored by
// its inputs can be repeated offline years later. Verifier is the same function
// with the certificate chains that it has already proved kept in memory.
//
// A Decision is a verdict as a value, and a Bundle is a Decision with all that it
// rests on: Bundle.Replay takes it again from bytes alone and says what differs.
//
// The package owns: the vendors' roots (embedded, never fetched, never taken from
// evidence), the product map, the gates that no policy can open, one ordered list
// of checks for each TEE, from which a refusal takes its code, the policy document
// with its canonical form, the SNP launch digest of a directly booted guest, and
// what a trust domain measures that is booted so.
// For SEV-SNP it owns, too, what the library has not: TCBs, chip ids and
// certificate extensions of Turin, providers' keys (VLEK), and every reserved
// field by the version of the report.
//
// What always holds:
//   - the zero value of Policy, Collateral, Roots and time refuses;
//   - a policy narrows what the code's own gates admit and never widens it: a
//     debug guest, one that can be migrated, one above VMPL 0 or one whose launch
//     was steered by an identity block is refused whatever it says;
//   - every check that could be judged is in the list, passed or failed, with the
//     vendor's section and, if it failed, advice, so one refusal names everything
//     that is wrong;
//   - hostile bytes end in a Refusal: lengths are checked before anything is
//     parsed, and a panic below the boundary is caught, counted and refused;
//   - an unknown product, version, reserved bit or rule refuses;
//   - a Refusal and its text carry no evidence, nonce or key.
//
// It trusts go-sev-guest and go-tdx-guest for the layout of reports and quotes, the
// standard library for X.509, and AMD and Intel for what they sign. Certificates
// that come with the evidence are a hint for the leaf only.
package attest
