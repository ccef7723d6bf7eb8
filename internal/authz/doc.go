// Package authz decides who may do what: Cedar policies embedded in the
// program, default deny.
//
// It owns the roles, the names of operations and policies.cedar, which a
// custodian can read. What no policy permits is denied, and a forbid beats
// every permit; a verdict says where only a forbid against one's own stands
// in the way. It trusts its caller for the attributes of principal and
// object: they come from a verified token and from the database. Roles that it
// does not know are dropped before anything is decided.
package authz
