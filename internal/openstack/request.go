package openstack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"
)

// request is one call of the cloud.
type request struct {
	service    service
	op, object string // for errors: "creating port", its name
	method     string
	path       []string // segments, escaped here
	query      url.Values
	body       any     // sent as JSON
	raw        *octets // or sent as octets
	accept     string
	out        any // JSON goes here
	ok         []int
	timeout    time.Duration // zero: the client's
	repeatable bool          // applying it twice is no harm, whatever its method
}

// octets is a body that can be read again from its start. A request that is refused for its token is sent again, and the
// transport may by then still be reading the first body: so every attempt opens its own, and none shares a reader.
type octets struct {
	open func(context.Context) (io.ReadCloser, error)
	size int64
}

func octetsOf(b []byte) *octets {
	return &octets{size: int64(len(b)), open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }}
}

// octetReader fails where the bytes are not as many as announced.
type octetReader struct {
	src  io.ReadCloser
	left int64
}

// bodyError is what reading our own body met; nothing was stored.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

var errWrongSize = errors.New("the bytes are not as many as registered")

func (r *octetReader) Read(p []byte) (int, error) {
	n, err := r.src.Read(p)
	r.left -= int64(n)
	switch {
	case r.left < 0, errors.Is(err, io.EOF) && r.left > 0:
		return 0, &bodyError{errWrongSize}
	case err != nil && !errors.Is(err, io.EOF):
		return n, &bodyError{err}
	}
	return n, err
}

func (r *octetReader) Close() error { return r.src.Close() }

func withWire(ctx context.Context, service string) context.Context {
	return context.WithValue(ctx, wireKey{}, wireOptions{service: service})
}

// send makes the call, once. Its error is classified.
func (c *Client) send(ctx context.Context, r request) error {
	resp, err := c.open(ctx, r, false)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// open is send for callers that read the body themselves.
func (c *Client) open(ctx context.Context, r request, keepBody bool) (*http.Response, error) {
	sc, err := c.service(ctx, r.service)
	if err != nil {
		return nil, err
	}
	segments := make([]string, len(r.path))
	for i, s := range r.path {
		segments[i] = url.PathEscape(s)
	}
	target := sc.ServiceURL(segments...)
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	opts := &gophercloud.RequestOpts{OkCodes: r.ok, MoreHeaders: map[string]string{}, KeepResponseBody: keepBody}
	if r.out != nil {
		opts.JSONResponse = r.out
	}
	switch {
	case r.raw != nil:
		opts.RawBody = http.NoBody // the wire puts the octets in its place, afresh for each attempt
		opts.MoreHeaders["Content-Type"] = "application/octet-stream"
	case r.body != nil:
		opts.JSONBody = r.body
	}
	if r.accept != "" {
		opts.MoreHeaders["Accept"] = r.accept
	}
	ctx = context.WithValue(ctx, wireKey{}, wireOptions{service: r.service.name, timeout: r.timeout, body: r.raw})
	resp, err := sc.Request(ctx, r.method, target, opts)
	if err != nil {
		return nil, classify(r, err)
	}
	return resp, nil
}

func (c *Client) get(ctx context.Context, svc service, op, object string, query url.Values, out any, path ...string) error {
	return c.send(ctx, request{service: svc, op: op, object: object, method: "GET", path: path, query: query, out: out, ok: []int{200}})
}

func (c *Client) remove(ctx context.Context, svc service, op, object string, path ...string) error {
	err := c.send(ctx, request{service: svc, op: op, object: object, method: "DELETE", path: path, ok: []int{200, 202, 204}})
	if KindOf(err) == NotFound {
		return nil
	}
	return err
}

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// identifier refuses anything but a UUID before it becomes part of a URL.
func identifier(svc service, op, id string) error {
	if !uuidForm.MatchString(id) {
		return &Error{Kind: Permanent, Service: svc.name, Op: op, Object: clean(id, 64), Reason: "the id is not a UUID"}
	}
	return nil
}

// unusable is an answer that came, and cannot be what was asked for.
func unusable(svc service, op, object, reason string) error {
	return &Error{Kind: Permanent, Service: svc.name, Op: op, Object: object, Reason: reason}
}

// clean makes text of the cloud fit for messages: printable, one line, bounded.
func clean(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f {
			return ' '
		}
		return r
	}, s[:min(len(s), 4*limit)])
	s = strings.Join(strings.Fields(s), " ")
	return s[:min(len(s), limit)]
}
