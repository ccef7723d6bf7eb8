package kbs

import "time"

// The statuses, by number: this package knows no HTTP library.
const (
	statusUnauthorized = 401
	statusForbidden    = 403
	statusNotFound     = 404
	statusTooLarge     = 413
	statusTooMany      = 429
	statusUnavailable  = 503
)

// errorPrefix is what the type of every error begins with.
const errorPrefix = "https://github.com/confidential-containers/kbs/errors/"

// Error is an answer other than 200. Its body is what clients call
// ErrorInformation; they parse it on every status of a resource.
//
// The stock server says 401 to nearly everything, and its clients answer 401 with
// three new handshakes. Here 401 means that a new handshake could help.
type Error struct {
	// Variant is the last part of the error's type.
	Variant string
	// Status is the HTTP status.
	Status int
	// Detail is for the client: it never says which rule of a policy failed.
	Detail string
	// RetryAfter is zero where waiting does not help.
	RetryAfter time.Duration
	cause      error
}

// Error names the cause, which is for the operator; the client reads Detail.
func (e *Error) Error() string {
	if e.cause != nil {
		return e.Detail + ": " + e.cause.Error()
	}
	return e.Detail
}

// Unwrap gives the cause, which never reaches the client.
func (e *Error) Unwrap() error { return e.cause }

// JSON is the body of the answer. Its content type is application/json.
func (e *Error) JSON() []byte {
	out := appendText([]byte(`{"type":`), errorPrefix+e.Variant)
	out = appendText(append(out, `,"detail":`...), e.Detail)
	return append(out, '}')
}

const (
	authFailed   = "Attestation error: RCAR handshake Auth failed"
	attestFailed = "Attestation error: RCAR handshake Attest failed"
)

// AuthFailed refuses a request for a challenge.
func AuthFailed(cause error) *Error {
	return &Error{Variant: "AttestationError", Status: statusUnauthorized, Detail: authFailed, cause: cause}
}

// AttestFailed answers every failure of /attest that a fresh handshake could mend
// with the same words, so that it tells a prober nothing.
func AttestFailed(cause error) *Error {
	return &Error{Variant: "AttestationError", Status: statusUnauthorized, Detail: attestFailed, cause: cause}
}

// AttestRefused refuses evidence that was judged: trying again would not help.
// denial is the id under which the operator finds the reasons.
func AttestRefused(denial string) *Error {
	return &Error{Variant: "AttestationError", Status: statusForbidden, Detail: attestFailed + ": denial " + denial}
}

// TokenNotFound starts the handshake of a client that asks without a session.
func TokenNotFound() *Error {
	return &Error{Variant: "TokenNotFound", Status: statusUnauthorized, Detail: "Attestation Token not found"}
}

// TokenRefused answers a bearer token that does not hold.
func TokenRefused(cause error) *Error {
	return &Error{Variant: "TokenVerifierError", Status: statusUnauthorized, Detail: "Token Verifier error", cause: cause}
}

// PolicyDenied refuses a resource to an attested guest; it stops every client at
// once, where 401 would make it try again.
func PolicyDenied(denial string) *Error {
	return &Error{Variant: "PolicyDeny", Status: statusForbidden, Detail: "Access denied by policy: denial " + denial}
}

// PluginNotFound answers a path whose first segment is no plugin.
func PluginNotFound(plugin string) *Error {
	return &Error{Variant: "PluginNotFound", Status: statusNotFound, Detail: "Plugin " + printable(plugin) + " not found"}
}

// InvalidPath answers a path that cannot name a resource.
func InvalidPath() *Error {
	return &Error{Variant: "InvalidRequestPath", Status: statusNotFound, Detail: "Request path is invalid"}
}

// ResourceAbsent answers a well-formed name under which there is nothing.
func ResourceAbsent() *Error {
	return &Error{Variant: "PluginInternalError", Status: statusNotFound, Detail: "Plugin internal error: resource not found"}
}

// TooMany answers a client over its limit.
func TooMany(after time.Duration) *Error {
	return &Error{Variant: "AttestationError", Status: statusTooMany, Detail: "Too many requests", RetryAfter: after}
}

// Unavailable answers while something that a judgement needs is missing.
func Unavailable(after time.Duration, cause error) *Error {
	return &Error{Variant: "AttestationError", Status: statusUnavailable, Detail: "Temporarily unavailable", RetryAfter: after, cause: cause}
}

// TooLarge answers a body over its limit.
func TooLarge() *Error {
	return &Error{Variant: "PayloadTooLarge", Status: statusTooLarge, Detail: "Request body is too large"}
}

// printable cuts what a client chose to what may stand in an answer and a log.
func printable(s string) string {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s) && i < 64; i++ {
		c := s[i]
		if c < 0x20 || c > 0x7e {
			c = '?'
		}
		out = append(out, c)
	}
	return string(out)
}
