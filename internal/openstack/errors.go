package openstack

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
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

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Object != "" {
		b.WriteString(" " + e.Object)
	}
	b.WriteString(" (" + e.Service)
	if e.Status != 0 {
		b.WriteString(" answered " + strconv.Itoa(e.Status))
	}
	if e.RequestID != "" {
		b.WriteString(", " + e.RequestID)
	}
	b.WriteString("): " + string(e.Kind))
	if e.Reason != "" {
		b.WriteString(": " + e.Reason)
	}
	if e.cause != nil {
		b.WriteString(": " + e.cause.Error())
	}
	return b.String()
}

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

// classify is the one place where what a cloud did becomes a Kind.
func classify(r request, err error) error {
	e := &Error{Service: r.service.name, Op: r.op, Object: r.object}
	var answered gophercloud.ErrUnexpectedResponseCode
	var reauth *gophercloud.ErrUnableToReauthenticate
	var host *hostError
	var body *bodyError
	var certificate *tls.CertificateVerificationError
	var op *net.OpError
	switch {
	case errors.As(err, &reauth):
		// The call itself was refused with 401: nothing was applied. What renewing the token met decides.
		e.Kind, e.Status, e.Reason = Retryable, http.StatusUnauthorized, "the token could not be renewed"
		if errors.As(reauth.ErrReauth, &answered) && answered.Actual >= 400 && answered.Actual < 500 && answered.Actual != http.StatusTooManyRequests {
			// 401 for a wrong secret, 404 for a credential that was deleted.
			e.Kind, e.Reason = Forbidden, "the credential is no longer accepted"
		}
	case errors.As(err, &answered):
		e.Status = answered.Actual
		e.RequestID = answeredID(answered.ResponseHeader)
		e.Kind = kindOfStatus(r, answered)
		e.Reason = reasonIn(r.service, answered.Body)
	case errors.As(err, &host):
		e.Kind, e.Reason = Permanent, host.Error()
	case errors.As(err, &body):
		// The service sees a broken upload and keeps nothing of it.
		e.Kind, e.Reason, e.cause = Permanent, "the bytes to send could not be read", body.err
	case errors.As(err, &certificate):
		e.Kind, e.Reason = Permanent, "the server's certificate is not valid for it"
	case errors.As(err, &op) && op.Op == "dial":
		e.Kind, e.Reason = Retryable, "no connection"
	default:
		// No answer, or half of one.
		e.Kind = Retryable
		if !r.safe() {
			e.Kind = Ambiguous
		}
		switch {
		case errors.Is(err, context.Canceled):
			e.cause = context.Canceled
		case errors.Is(err, context.DeadlineExceeded):
			e.cause = context.DeadlineExceeded
		case errors.Is(err, errBodyTooLong):
			e.Reason = errBodyTooLong.Error()
		default:
			e.Reason = "the answer was lost or is not readable"
		}
	}
	return e
}

// safe says whether repeating the call cannot apply anything twice.
func (r request) safe() bool {
	return r.repeatable || r.method == http.MethodGet || r.method == http.MethodDelete
}

// kindOfStatus knows how each service says what. Nova and Barbican refuse over quota with 403, Cinder and Glance with
// 413 (Cinder with Retry-After 0, where a rate limit says more), Neutron with 409 and a type.
func kindOfStatus(r request, a gophercloud.ErrUnexpectedResponseCode) Kind {
	body := strings.ToLower(string(a.Body[:min(len(a.Body), 4096)]))
	switch status := a.Actual; {
	case status == http.StatusNotFound && r.service.name == identity.name:
		return Forbidden // Keystone's answer for an application credential that is gone
	case status == http.StatusNotFound, status == http.StatusGone:
		return NotFound
	case status == http.StatusConflict:
		if r.service.name == network.name && neutronType(a.Body) == "OverQuota" {
			return Quota
		}
		return Conflict
	case status == http.StatusPreconditionFailed:
		return Conflict
	case status == http.StatusForbidden:
		over := r.service.name == compute.name && strings.Contains(body, "quota exceeded") ||
			r.service.name == keyManager.name && strings.Contains(body, "quota reached")
		if over {
			return Quota
		}
		return Forbidden
	case status == http.StatusUnauthorized:
		return Forbidden
	case status == http.StatusRequestEntityTooLarge:
		switch r.service.name {
		case volume.name, compute.name:
			if after, err := strconv.Atoi(a.ResponseHeader.Get("Retry-After")); err == nil && after > 0 {
				return Retryable
			}
			return Quota
		case image.name:
			return Quota
		}
		return Permanent
	case status == http.StatusTooManyRequests:
		return Retryable
	case status == http.StatusBadRequest && r.service.name == volume.name && strings.Contains(body, "status must be"):
		return Conflict // Cinder's way of saying that the volume is busy
	case status == http.StatusNotImplemented, status < 500:
		return Permanent
	}
	if r.safe() {
		return Retryable
	}
	return Ambiguous // a proxy's 502 to 504 says nothing about what happened behind it
}

// neutronType is the class of Neutron's error, such as MacAddressInUse.
func neutronType(body []byte) string {
	var doc struct {
		NeutronError struct {
			Type string `json:"type"`
		} `json:"NeutronError"`
	}
	if json.Unmarshal(body, &doc) != nil {
		return ""
	}
	return clean(doc.NeutronError.Type, 60)
}

// reasonIn takes the one-sentence message out of an error body. Keystone's and Barbican's bodies are never quoted, since
// they may echo what was sent; nor is anything that is not the JSON that the others give.
func reasonIn(svc service, body []byte) string {
	if svc.name == identity.name || svc.name == keyManager.name {
		return ""
	}
	var doc map[string]json.RawMessage
	if json.Unmarshal(body, &doc) != nil || len(doc) != 1 {
		return ""
	}
	for key, value := range doc {
		var inner struct {
			Type    string `json:"type"`
			Message string `json:"message"`
		}
		if json.Unmarshal(value, &inner) != nil {
			return ""
		}
		if inner.Type == "" {
			inner.Type = key
		}
		return clean(fmt.Sprintf("%s: %s", inner.Type, inner.Message), 240)
	}
	return ""
}
