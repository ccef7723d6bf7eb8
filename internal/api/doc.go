// Package api is the HTTP face of the service: the REST API described in
// openapi.yaml, and the guests' two doors: the native one, and /kbs/v0 for stock
// clients.
//
// It owns the table idempotency, the tokens' verification, the one table of
// errors (errors.go) and nothing else: a handler converts, calls a service,
// converts back. What holds for every request of the API's listener:
//
//   - who calls is known from a verified access token before the body is read;
//   - the body is bounded, free of repeated names and valid by openapi.yaml
//     before a handler sees it;
//   - package authz has allowed the operation on this very object before a
//     service is called; a denial is in the audit log before it is answered, except
//     those of callers without any role, and those beyond a caller's budget: they
//     are counted, and the counts are in the log within a minute. What would have
//     changed something has a budget that reads cannot use up, and beyond it the
//     first objects are named;
//   - uploads and exports get more than half a minute only after that, are few, are
//     cut off when they stall, and hold no connection of the database meanwhile;
//   - a POST's effect, its audit entry and its stored answer commit in one
//     transaction, so that the same Idempotency-Key can never take effect twice;
//   - the answer to a policy change waits until its entry stands under a signed
//     checkpoint;
//   - a failure here is told to the caller by its request id only.
//
// The guests' doors have a listener of their own and no access tokens: whom they
// believe is the business of package keybroker. A guest that is refused learns an
// id. Under /kbs/v0 every answer, errors of routing included, is of that
// protocol's form, which package kbs owns.
//
// It trusts the issuers named in the configuration for who somebody is and
// which roles he or she has, and Postgres for what the services say. A key that an
// issuer has withdrawn is good for five minutes more, and for an hour while the
// issuer does not answer; a key set without keys is an answer. Handlers
// get caller and request through the context, because the generated interface
// has no other door; no other package reads it from there.
package api
