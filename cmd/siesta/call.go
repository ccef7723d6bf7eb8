package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/uuid"
)

// maxAnswer bounds what is read of an answer that is kept in memory.
const maxAnswer = 16 << 20

// api is the service as one person sees it.
type api struct {
	server string
	// token is asked before every request: an operation may be watched for longer than a token lives.
	token func(context.Context) (string, error)
}

// problem is an RFC 9457 answer.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Next   string `json:"next"`
	Code   string `json:"code"`
	// Instance names the request to whoever runs the service.
	Instance   string `json:"instance"`
	RetryAfter int    `json:"retry_after"`
	Errors     []struct {
		Where string `json:"where"`
		What  string `json:"what"`
	} `json:"errors"`
	Facts []factView `json:"facts"`
}

// Error has everything that next may speak of, under the name that it has there.
func (p *problem) Error() string {
	text := p.Detail
	if text == "" {
		text = p.Title
	}
	text = plain(text)
	for _, e := range p.Errors {
		text += "\n  errors: " + plain(e.Where+": "+e.What)
	}
	for _, f := range p.Facts {
		if !f.Holds {
			text += "\n  facts: " + plain(f.Name+": "+f.Why+"; who can fix it: "+f.Fix)
		}
	}
	if p.RetryAfter > 0 {
		text += fmt.Sprintf("\n  retry after: %d seconds", p.RetryAfter)
	}
	if p.Next != "" {
		text += "\n  next: " + plain(p.Next)
	}
	if p.Status >= 500 && p.Instance != "" {
		text += "\n  request id: " + plain(strings.TrimPrefix(p.Instance, "urn:siestad:request:"))
	}
	return text
}

// call sends one request and returns the body of a good answer. A creating POST carries a fresh Idempotency-Key and is
// sent again once, under the same key, if the connection breaks: the server then gives the first answer.
func (a api) call(ctx context.Context, method, path string, query url.Values, body any) ([]byte, error) {
	var encoded []byte
	if body != nil {
		var err error
		if encoded, err = json.Marshal(body); err != nil {
			return nil, fmt.Errorf("%s %s: %w", method, path, err)
		}
	}
	header := http.Header{}
	if body != nil {
		header.Set("Content-Type", "application/json")
	}
	switch method {
	case http.MethodPost:
		header.Set("Idempotency-Key", uuid.NewString())
	case http.MethodDelete:
		header.Set("If-Match", "*") // a person who names a thing means it as it stands
	}
	for attempt := 1; ; attempt++ {
		resp, err := a.send(ctx, method, path, query, header, bytes.NewReader(encoded), int64(len(encoded)))
		var broken *url.Error
		if errors.As(err, &broken) && attempt == 1 && ctx.Err() == nil && method != http.MethodPut {
			continue
		}
		if err != nil {
			return nil, err
		}
		return readAll(resp, maxAnswer)
	}
}

// upload streams a file; it is not repeated.
func (a api) upload(ctx context.Context, path string, r io.Reader, size int64) ([]byte, error) {
	header := http.Header{"Content-Type": {"application/octet-stream"}, "If-Match": {"*"}}
	resp, err := a.send(ctx, http.MethodPut, path, nil, header, r, size)
	if err != nil {
		return nil, err
	}
	return readAll(resp, maxAnswer)
}

// stream copies a good answer to w as it comes.
func (a api) stream(ctx context.Context, path string, query url.Values, w io.Writer) error {
	resp, err := a.send(ctx, http.MethodGet, path, query, http.Header{}, http.NoBody, 0)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("GET %s: the answer broke off: %w", path, err)
	}
	return nil
}

// send returns an answer of the 200s, or the server's problem as an error.
func (a api) send(ctx context.Context, method, path string, query url.Values, header http.Header, body io.Reader, size int64) (*http.Response, error) {
	target := strings.TrimSuffix(a.server, "/") + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	req.ContentLength = size
	if size == 0 {
		req.Body = http.NoBody
	}
	for name, values := range header {
		req.Header[name] = values
	}
	token, err := a.token(ctx)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := httpClient.Do(req)
	switch {
	case ctx.Err() != nil && err != nil:
		return nil, err // the person has had enough
	case err != nil:
		return nil, fmt.Errorf("asking the service: %w\n  next: see that it runs, and that this is its address (--server, SIESTA_SERVER)", err)
	}
	// A page for a browser is of somebody else: a proxy, a portal, a login in between.
	page := strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html")
	if resp.StatusCode/100 == 2 && !page {
		return resp, nil
	}
	data, err := readAll(resp, 1<<20)
	if err != nil {
		return nil, err
	}
	p := &problem{Status: resp.StatusCode}
	if json.Unmarshal(data, p) != nil || p.Title == "" {
		return nil, fmt.Errorf("%s %s: what answered %s is not siestad\n  next: see that %s is its address (--server, SIESTA_SERVER), and that it runs", method, path, resp.Status, a.server)
	}
	return nil, p
}

func readAll(resp *http.Response, limit int64) ([]byte, error) {
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("the answer has more than %d bytes", limit)
	}
	return data, nil
}

// get reads one object into v and returns its bytes for -o json.
func get[T any](ctx context.Context, a api, path string, query url.Values) (T, []byte, error) {
	var v T
	body, err := a.call(ctx, http.MethodGet, path, query, nil)
	if err != nil {
		return v, nil, err
	}
	if err := json.Unmarshal(body, &v); err != nil {
		return v, nil, fmt.Errorf("GET %s: unexpected answer: %w", path, err)
	}
	return v, body, nil
}
