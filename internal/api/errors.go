package api

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/eosc-siesta/siestad/internal/api/gen"
	"github.com/eosc-siesta/siestad/internal/corim"
	"github.com/eosc-siesta/siestad/internal/floor"
	"github.com/eosc-siesta/siestad/internal/flow"
	"github.com/eosc-siesta/siestad/internal/image"
	"github.com/eosc-siesta/siestad/internal/keybroker"
	"github.com/eosc-siesta/siestad/internal/openstack"
	"github.com/eosc-siesta/siestad/internal/permit"
	"github.com/eosc-siesta/siestad/internal/policy"
	"github.com/eosc-siesta/siestad/internal/workspace"
)

// kind is one row of the error table. Its slug ends the problem's type, which is stable.
type kind struct {
	status int
	slug   string
	title  string
	next   string
	// open: the error's own text may be shown. It never is for what is not the caller's doing.
	open bool
}

const problemType = "urn:siestad:problem:"

// The error table: every problem that the API can answer with.
var (
	kindMalformed    = kind{400, "malformed-request", "The request is malformed", "Correct what `errors` names and send it again.", true}
	kindNoKey        = kind{400, "idempotency-key-required", "Idempotency-Key is missing", "Send a fresh Idempotency-Key of 8 to 128 characters, a UUID for example, and the same one again when you repeat this request.", true}
	kindCursor       = kind{400, "cursor-unknown", "The cursor is not good here", "Start again without a cursor; it belongs to one caller and one filter.", true}
	kindToken        = kind{401, "token-not-accepted", "The access token is not accepted", "Log in again and send a fresh access token of a configured issuer.", true}
	kindForbidden    = kind{403, "forbidden", "You may not do this", "Ask somebody with the role or the membership that it takes.", true}
	kindFacts        = kind{403, "facts-missing", "A fact that this needs does not hold", "See in `facts` who can fix which.", true}
	kindDoor         = kind{403, "guest-refused", "Refused", "Show the decision's id to the owner of the workspace, who can read why.", true}
	kindDoorBusy     = kind{503, "ask-again", "Not now", "Send the same request again after Retry-After seconds.", true}
	kindSelf         = kind{403, "self-approval", "Never the same person", "Ask somebody else who may do it.", true}
	kindNotAuthor    = kind{403, "not-author", "Only who made a draft uploads its files", "Ask its author, or make a draft of your own.", true}
	kindWider        = kind{422, "wider-than-site", "A policy only narrows", "Take out what the site's configuration does not admit.", true}
	kindNotKept      = kind{409, "not-replayable", "What it rests on is not kept", "Choose a later decision, one with evidence: this one was made before such things were kept, or without any.", true}
	kindNotCustodian = kind{403, "not-custodian", "Only the custodian decides over a dataset", "Ask the custodian of the dataset.", true}
	kindNotFound     = kind{404, "not-found", "There is no such thing for you", "Check the id; lists show what you may see.", true}
	kindMethod       = kind{405, "method-not-allowed", "The path has no such method", "See openapi.yaml for the methods of this path.", true}
	kindExists       = kind{409, "already-exists", "There is one already", "Choose another id.", true}
	kindState        = kind{409, "wrong-state", "Not possible in the state that it is in", "Look at its state and decide again.", true}
	kindBusy         = kind{409, "busy", "Something is under way", "Wait for the running operation to end, then try again.", true}
	kindInFlight     = kind{409, "request-in-flight", "The first request with this key is still being answered", "Wait a moment and send the same request again.", true}
	kindStale        = kind{412, "changed-meanwhile", "It has changed since you last saw it", "Read it again, then decide again with its new ETag.", true}
	kindTooLarge     = kind{413, "too-large", "The body is too large", "Send less; openapi.yaml gives the limits.", true}
	kindMediaType    = kind{415, "unsupported-media-type", "The body is of another type", "Send application/json, or application/octet-stream for a file.", true}
	kindInvalid      = kind{422, "invalid", "Understood, and it cannot be", "Correct it and send it again.", true}
	kindKeyReused    = kind{422, "idempotency-key-reused", "The Idempotency-Key belongs to another request", "Use a fresh key for another body.", true}
	kindNoIfMatch    = kind{428, "if-match-required", "If-Match is missing", "Send the ETag that you last saw, or * for whatever stands there.", true}
	kindRate         = kind{429, "too-many-requests", "Too many requests", "Wait as long as Retry-After says.", true}
	kindInternal     = kind{500, "internal", "Something broke here", "Give the request id to whoever runs the service.", false}
	kindDatabase     = kind{503, "database-unavailable", "The database does not answer", "Try again in a moment.", false}
	kindTimeout      = kind{503, "timeout", "It took too long", "Try again with the same Idempotency-Key: nothing happens twice.", false}
	kindAuditLog     = kind{503, "audit-log-behind", "The audit log does not sign", "Send the same request with the same Idempotency-Key again: what was done is done once.", false}
	kindIssuer       = kind{503, "issuer-unavailable", "The issuer of the token does not answer", "Try again in a moment; running workspaces are not affected.", false}
	kindSite         = kind{503, "site-unavailable", "The site does not answer as it should", "Try again later, or choose another site.", false}
	kindSiteFull     = kind{503, "site-full", "The site has no room", "Wait for room, ask its operator for quota, or choose another site.", false}
	kindNotReady     = kind{503, "not-ready", "Not ready to serve", "Wait; whoever runs the service sees why in its log.", false}
)

// sentinels maps the errors that packages export to rows, in order: the first that matches wins.
var sentinels = []struct {
	err  error
	kind kind
}{
	{permit.ErrNotCustodian, kindNotCustodian},
	{permit.ErrExists, kindExists},
	{permit.ErrState, kindState},
	{permit.ErrInvalid, kindInvalid},
	{permit.ErrNotFound, kindNotFound},
	{permit.ErrSamePerson, kindSelf},
	{policy.ErrSamePerson, kindSelf},
	{policy.ErrWider, kindWider},
	{policy.ErrState, kindState},
	{policy.ErrInvalid, kindInvalid},
	{policy.ErrNotFound, kindNotFound},
	{floor.ErrInvalid, kindInvalid},
	{corim.ErrInvalid, kindInvalid},
	{image.ErrSelfApproval, kindSelf},
	{image.ErrNotAuthor, kindNotAuthor},
	{image.ErrTooLarge, kindTooLarge},
	{image.ErrState, kindState},
	{image.ErrInvalid, kindInvalid},
	{image.ErrNotFound, kindNotFound},
	{workspace.ErrBusy, kindBusy},
	{workspace.ErrState, kindState},
	{workspace.ErrInvalid, kindInvalid},
	{workspace.ErrNotFound, kindNotFound},
	{flow.ErrBusy, kindBusy},
	{flow.ErrNotFound, kindNotFound},
	{keybroker.ErrExists, kindExists},
	{keybroker.ErrInvalid, kindInvalid},
	{keybroker.ErrNotKept, kindNotKept},
	{keybroker.ErrBusy, kindBusy},
	{keybroker.ErrState, kindState},
	{keybroker.ErrShredded, kindState},
	{keybroker.ErrNotFound, kindNotFound},
	{errIssuerAway, kindIssuer},
	{errAuditBehind, kindAuditLog},
	{context.DeadlineExceeded, kindTimeout},
	{context.Canceled, kindTimeout},
}

// problem is an error that knows its row.
type problem struct {
	kind
	detail  string
	code    string
	retry   int // seconds
	facts   []permit.NamedFact
	faults  []fault
	bearing string // WWW-Authenticate error, for 401
}

// fault is one thing wrong with a request, and where.
type fault struct{ where, what string }

func (p *problem) Error() string { return p.title + ": " + p.detail }

func (k kind) because(detail string) *problem { return &problem{kind: k, detail: detail} }

// problemOf finds the row of an error.
func problemOf(err error) *problem {
	var (
		p       *problem
		refused *workspace.Refused
		cloud   *openstack.Error
		pg      *pgconn.PgError
		network net.Error
		tooLong *http.MaxBytesError
	)
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &refused):
		p = kindFacts.because(sentence(refused.Error()))
		p.facts = refused.Facts
		if len(refused.Facts) > 0 {
			p.code = refused.Facts[0].Name
		}
		return p
	case errors.As(err, &tooLong):
		return kindTooLarge.because("The body is larger than it may be.")
	case errors.As(err, &cloud):
		if cloud.Kind == openstack.Quota {
			return kindSiteFull.because("The site answered that a quota or its capacity is used up.")
		}
		return kindSite.because("A call to the site failed.")
	}
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			if s.kind.open {
				return s.kind.because(sentence(err.Error()))
			}
			return s.kind.because(s.kind.title + ".")
		}
	}
	// Classes 53 and 57: the server has no room, or is going down or coming up.
	if errors.As(err, new(*pgconn.ConnectError)) || errors.As(err, &network) ||
		errors.As(err, &pg) && (strings.HasPrefix(pg.Code, "53") || strings.HasPrefix(pg.Code, "57")) {
		return kindDatabase.because(kindDatabase.title + ".")
	}
	return kindInternal.because("The request could not be carried out.")
}

// view is the problem as it goes out.
func (p *problem) view(request string) gen.Problem {
	v := gen.Problem{
		Type: problemType + p.slug, Title: p.title, Status: p.status, Detail: p.detail, Next: p.next,
		Code: optional(p.code), Instance: optional("urn:siestad:request:" + request),
	}
	if p.retry > 0 {
		v.RetryAfter = &p.retry
	}
	if len(p.facts) > 0 {
		facts := factViews(p.facts)
		v.Facts = &facts
	}
	if len(p.faults) > 0 {
		list := make([]struct {
			What  string `json:"what"`
			Where string `json:"where"`
		}, len(p.faults))
		for i, f := range p.faults {
			list[i].Where, list[i].What = f.where, f.what
		}
		v.Errors = &list
	}
	return v
}

// sentence makes an error's text one for people: a capital first, a full stop last.
func sentence(s string) string {
	if s == "" {
		return s
	}
	r, n := utf8.DecodeRuneInString(s)
	s = string(unicode.ToUpper(r)) + s[n:]
	if !strings.HasSuffix(s, ".") {
		s += "."
	}
	return s
}

// optional is nil for the zero value: what is not there is absent from an answer, never empty.
func optional[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}
