package openstack

import (
	"context"
	"errors"
)

// Kind says what a caller can do about an error. The zero Kind is no error at all.
type Kind string

const (
	// NotFound: the object is not there (or not ours to see).
	NotFound Kind = "not found"
	// Conflict: the object's present state forbids the call; look again before deciding.
	Conflict Kind = "conflict"
	// Quota: no capacity, by quota or because no host was found; worth waiting for.
	Quota Kind = "quota"
	// Retryable: nothing was applied; the same call may succeed later.
	Retryable Kind = "retryable"
	// Ambiguous: the call may or may not have been applied; look before repeating it.
	Ambiguous Kind = "ambiguous"
	// Forbidden: the credential may not do this, or is no longer valid.
	Forbidden Kind = "forbidden"
	// Permanent: repeating the same call cannot help.
	Permanent Kind = "permanent"
)

// Error is every error of this package that came from a cloud. Its text carries service, operation, object, status and
// the service's request id; never a body.
type Error struct {
	Kind      Kind
	Service   string // "compute", "volume", "network", "image", "key-manager", "identity"
	Op        string // "creating server"
	Object    string // name or id
	Status    int    // 0 where there was no answer
	RequestID string // the service's own, where it gave one
	Reason    string // one bounded, printable phrase; empty for services whose answers may hold secrets
	cause     error
}

func (e *Error) Error() string { return e.Op }

func (e *Error) Unwrap() error { return e.cause }

// KindOf classifies any error: what this package made by its Kind, an expired deadline as Retryable, the rest as
// Permanent, and nil as the empty Kind.
func KindOf(err error) Kind {
	var e *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return Retryable
	}
	return Permanent
}
