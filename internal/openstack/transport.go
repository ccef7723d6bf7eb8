package openstack

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"
)

// maxBody bounds every answer. The largest expected one is a list page of a few hundred kilobytes.
const maxBody = 8 << 20

func newTransport(tlsConfig *tls.Config) *http.Transport {
	if tlsConfig == nil {
		tlsConfig = &tls.Config{}
	} else {
		tlsConfig = tlsConfig.Clone()
	}
	tlsConfig.MinVersion = tls.VersionTLS12
	return &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       tlsConfig,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
		IdleConnTimeout:       60 * time.Second,
		MaxIdleConns:          64,
		MaxIdleConnsPerHost:   16,
		MaxConnsPerHost:       64,
		ForceAttemptHTTP2:     true,
	}
}

// hostList holds the hosts that may be spoken to.
type hostList map[string]bool

func newHostList(entries []string) (hostList, error) {
	l := make(hostList, len(entries))
	for _, e := range entries {
		if e == "" || strings.ContainsAny(e, "/@?# *") {
			return nil, fmt.Errorf("allowed host %q is not a host or host:port", e)
		}
		l[strings.ToLower(e)] = true
	}
	return l, nil
}

func (l hostList) check(u *url.URL) error {
	if u.Scheme != "https" && u.Scheme != "http" {
		return fmt.Errorf("scheme %.10q is not http or https", u.Scheme)
	}
	if u.User != nil || u.Fragment != "" {
		return errors.New("URL carries credentials or a fragment")
	}
	host := strings.ToLower(u.Hostname())
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	if host == "" || !l[host] && !l[net.JoinHostPort(host, port)] {
		return fmt.Errorf("host %.100q is not in the allow-list", u.Host)
	}
	return nil
}

// wire is the one way out: it refuses foreign hosts, gives every call a deadline, an id of ours and a bounded answer, and
// records it in the context's trace.
type wire struct {
	base    http.RoundTripper
	hosts   hostList
	timeout time.Duration
}

type wireKey struct{}

// wireOptions travel in the context because gophercloud builds the request.
type wireOptions struct {
	service string
	timeout time.Duration // zero: the client's
	body    *octets       // nil: what the request carries
}

var requestID = regexp.MustCompile(`^req-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := w.hosts.check(req.URL); err != nil {
		return nil, &hostError{err}
	}
	opts, _ := req.Context().Value(wireKey{}).(wireOptions)
	if strings.HasSuffix(req.URL.Path, "/auth/tokens") {
		// Authentication happens inside other calls.
		opts = wireOptions{service: identity.name}
	}
	timeout := w.timeout
	if opts.timeout > 0 {
		timeout = opts.timeout
	}
	ctx, cancel := context.WithTimeout(req.Context(), timeout)
	req = req.Clone(ctx)
	if opts.body != nil {
		src, err := opts.body.open(ctx)
		if err != nil {
			cancel()
			return nil, &bodyError{err}
		}
		req.Body, req.ContentLength = &octetReader{src: src, left: opts.body.size}, opts.body.size
	}
	sent := "req-" + uuid.NewString()
	req.Header.Set("X-Openstack-Request-Id", sent)

	call := Call{Service: opts.service, Method: req.Method, Path: req.URL.Path, Sent: sent}
	trace, _ := ctx.Value(traceKey{}).(*Trace)
	resp, err := w.base.RoundTrip(req)
	if err != nil {
		cancel()
		trace.add(call)
		return nil, err
	}
	call.Status = resp.StatusCode
	call.RequestID = answeredID(resp.Header)
	trace.add(call)
	resp.Body = &boundedBody{body: resp.Body, left: maxBody, cancel: cancel}
	return resp, nil
}

// answeredID is the service's id of a request; anything that is not one is dropped, since it goes into audit entries.
func answeredID(h http.Header) string {
	for _, name := range []string{"X-Openstack-Request-Id", "X-Compute-Request-Id"} {
		if id := h.Get(name); requestID.MatchString(id) {
			return id
		}
	}
	return ""
}

// hostError is a refusal of ours: nothing was sent.
type hostError struct{ err error }

func (e *hostError) Error() string { return e.err.Error() }

var errBodyTooLong = errors.New("answer is longer than allowed")

type boundedBody struct {
	body   io.ReadCloser
	left   int64
	cancel context.CancelFunc
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		// At exactly the limit the answer may just be over; then the next byte decides.
		var one [1]byte
		n, err := b.body.Read(one[:])
		if n > 0 {
			return 0, errBodyTooLong
		}
		return 0, err
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.body.Read(p)
	b.left -= int64(n)
	return n, err
}

func (b *boundedBody) Close() error {
	defer b.cancel()
	return b.body.Close()
}
