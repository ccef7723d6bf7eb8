// Package attest turns the evidence of a confidential guest into a verdict.
//
// Verify is a pure function of evidence, collateral, policy and time: it opens
// no socket, reads no clock and keeps nothing, so a decision that was stored by
// its inputs can be repeated offline years later. Verifier is the same function
// with the certificate chains that it has already proved kept in memory.
//
// The package owns: the AMD roots (embedded, never fetched, never taken from
// evidence), the product map, the gates that no policy can open, the order in
// which failed checks give a refusal its code, the policy document with its
// canonical form, and the SNP launch digest of a directly booted guest.
//
// What always holds:
//   - the zero value of Policy, Collateral, Roots and time refuses;
//   - a policy narrows what the code's own gates admit and never widens it: a
//     debug guest, one with a migration agent, one above VMPL 0 or one whose
//     launch was steered by an identity block is refused whatever it says;
//   - every check that could be judged is in the list, passed or failed, so one
//     refusal names everything that is wrong;
//   - hostile bytes end in a Refusal: lengths are checked before anything is
//     parsed, and a panic below the boundary is caught, counted and refused;
//   - a Refusal and its text carry no evidence, nonce or key.
//
// It trusts go-sev-guest for the report's layout and its signature, the standard
// library for X.509, and AMD for what it signs. Certificates that come with the
// evidence are a hint for the leaf only.
package attest
