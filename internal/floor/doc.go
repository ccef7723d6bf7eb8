// Package floor reads dated, signed lists of security floors: which vendor's advisory asks for which patch level.
//
// # Format
//
// A file is one JSON object {"payload","key","signature"}. payload is base64 of the signed JSON, key the SHA-256 of the
// Ed25519 public key in hex, signature is base64 over "siesta/floor/v1\n" followed by the payload's bytes. The payload is
//
//	{"version":1,"issued":"2026-11-01T00:00:00Z","advisories":[
//	  {"id":"AMD-SB-3019","date":"2025-03-05","title":"…","products":[
//	    {"product":"Milan","min_tcb":{"bootloader":4,"tee":0,"snp":24,"microcode":219}}]},
//	  {"id":"INTEL-SA-01234","date":"2026-02-10","title":"…","products":[
//	    {"product":"TDX","min_tcb_evaluation":19}]}]}
//
// # Invariants
//
//  1. A floor only ever raises: what it says is joined with what a policy says already, component by component.
//  2. Nothing in a file is believed before its signature is proved under a configured key, and its size is bounded before it
//     is parsed.
//  3. What a file asks for can be judged: it names the product lines that evidence comes from, and levels that they have. So
//     nobody puts a floor into force that raises nothing.
//  4. A product line that a file does not name is left as it was: a floor is no list of what is allowed.
//
// The package has no database and no clock. Who may put a file into force is package policy's business.
package floor
