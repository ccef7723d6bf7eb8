// Package collateral keeps what processor vendors say of their hardware: AMD's certificates of chips (VCEK), providers'
// (VLEK), chains and revocation lists; Intel's TCB infos, identities of the quoting enclave and revocation lists.
//
// A release never waits for a vendor. For answers from memory; what is missing refuses with code collateral and is
// fetched afterwards, by the one process that holds the lease. What registered chips need is fetched when they are
// registered, and again ahead of its end. Without a vendor configured nothing is ever fetched: objects are imported.
//
// # Invariants
//
//  1. No object is stored before its vendor's signature was proved under the pinned roots and its window covers the present.
//  2. Objects are never changed or removed: a decision's collateral can be given back by digest.
//  3. There is one want for each subject. However many guests ask, in however many processes, it is one request.
//  4. Evidence costs a vendor no more than the budget of its project allows, and a subject that the vendor does not have is
//     not asked for again before the negative answer has aged.
//  5. An import stores all objects of a bundle or none.
//  6. A list of AMD's speaks after its end only inside the configured grace; the first such use of each list is audited
//     before it is used, and the grace is one of the objects that the decision names. Intel's objects have no grace.
//  7. Under a provider's key (VLEK) a verdict gets AMD's list of those keys, and under a chip's that of chips' keys. Nothing in
//     a list says which it is: where it was fetched, or whoever made the bundle, does.
//
// A crash between a vendor's answer and the transaction that stores it loses the answer: the want is still due, and the
// object is fetched again. The lease keeps requests few, not the state right: writes of two holders are the same.
//
// Trusted: the roots, this process's clock. Not trusted: vendors' transport, the author of a bundle, evidence.
package collateral
