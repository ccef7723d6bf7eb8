// Package ear makes and reads attestation results: short-lived signed tokens
// (EAR, draft-ietf-rats-ear, in the shape that stock key broker clients know)
// that say what was judged, under which policy, for which nonce and key.
//
// # What it owns
//
// The claims, their signature (ES256), the key set under which others verify it,
// and the turning over of keys without a gap.
//
// # What holds
//
//   - a token lives Life, five minutes, and never longer;
//   - verifying uses one algorithm and only the keys of the signer, found by the
//     key id. A key, a certificate or an address in a token's header is nothing;
//     type, issuer, audience and profile have to be those of this signer, exactly;
//   - the verdict in a token (ear.status) follows from its trust vector, so that
//     the two cannot disagree; the zero vector is "none";
//   - the zero value of every type refuses;
//   - a private key prints as "[redacted]".
//
// # What it is not
//
// A token is a statement about a past judgement. It releases nothing by itself:
// whoever gets one shown still asks whether the lease behind it lives.
//
// The package has no database and no network, imports nothing of the project, and
// takes its time from the configuration.
package ear
