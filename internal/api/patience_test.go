package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eosc-siesta/siestad/internal/api/gen"
	"github.com/eosc-siesta/siestad/internal/audit"
)

// pipes is a listener whose connections hold no byte that the other side has not read.
type pipes struct {
	conns chan net.Conn
	ended chan struct{}
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.ended:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.ended) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

// served serves a handler over pipes, to clients of HTTP/1 and HTTP/2; dial makes a connection to it.
func served(t *testing.T, h http.Handler) (dial func() net.Conn) {
	t.Helper()
	l := &pipes{conns: make(chan net.Conn), ended: make(chan struct{})}
	server := &http.Server{Handler: h, Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() { _ = server.Close(); running.Wait() })
	return func() net.Conn {
		t.Helper()
		ours, theirs := net.Pipe()
		l.conns <- theirs
		t.Cleanup(func() { _ = ours.Close() })
		return ours
	}
}

func request(t *testing.T, c io.Writer, method, path, token string, more ...string) {
	t.Helper()
	_, err := fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: siestad.test\r\nAuthorization: Bearer %s\r\nIf-Match: *\r\n%s\r\n", method, path, token, strings.Join(more, ""))
	must(t, err)
}

const octets = "Content-Type: application/octet-stream\r\nContent-Length: 1000000\r\n"

// TestStrangersGetNoTime: the path of an upload or an export gives no time by itself.
func TestStrangersGetNoTime(t *testing.T) {
	r := newRig(t)
	for method, path := range map[string]string{"PUT": "/v1/images/" + anyULID + "/files/kernel", "GET": "/v1/audit/export"} {
		synctest.Test(t, func(t *testing.T) {
			c, began := served(t, r.api)(), time.Now()
			request(t, c, method, path, "x.y.z", "Content-Length: 1000\r\n")
			got, err := io.ReadAll(c) // until the connection ends
			if err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 401 ") {
				t.Errorf("%s: %.40q, %v", path, got, err)
			}
			if took := time.Since(began); took > answerIn+lastWord {
				t.Errorf("%s: a stranger held a connection for %v", path, took)
			}
		})
	}
}

// deadlines records what a connection would have been told.
type deadlines struct {
	*httptest.ResponseRecorder
	read time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error { d.read = t; return nil }

// TestOnlyWhoMayUploadGetsTime: the time is given after it is known who asks, and that he or she may.
func TestOnlyWhoMayUploadGetsTime(t *testing.T) {
	r := newRig(t)
	op := r.person("op", "operator")
	var img gen.Image
	r.want(201, op, "POST", "/v1/images", map[string]any{"name": "desktop"}).into(t, &img)
	for who, status := range map[person]int{op: 200, r.person("op2", "operator"): 403, r.person("ann", "researcher"): 403, r.person("eve"): 404} {
		req := httptest.NewRequestWithContext(t.Context(), "PUT", "/v1/images/"+img.ID+"/files/kernel", strings.NewReader("x"))
		for name, value := range map[string]string{"Authorization": "Bearer " + who.token, "If-Match": "*", "Content-Type": "application/octet-stream"} {
			req.Header.Set(name, value)
		}
		w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
		r.api.ServeHTTP(w, req)
		if patient := time.Until(w.read) > answerIn; w.Code != status || patient != (status == 200) {
			t.Errorf("%s: status %d, %v left to read", who.subject, w.Code, time.Until(w.read))
		}
	}
}

// TestStalledCallersAreCutOff, slow ones only when their time is up.
func TestStalledCallersAreCutOff(t *testing.T) {
	r := newRig(t)
	var ended chan error // of the bubble
	upload := r.server.observe(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		c := callOf(req.Context())
		_, cancel := c.longer(req.Context(), uploadIn)
		defer cancel()
		_, err := io.Copy(io.Discard, patientReader{req.Body, c})
		ended <- err
		if err != nil {
			r.server.fail(w, req, err)
		}
	}))
	export := r.server.observe(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		c := callOf(req.Context())
		ctx, cancel := c.longer(req.Context(), exportIn)
		defer cancel()
		out := &patientWriter{ResponseWriter: w, call: c}
		for {
			if _, err := out.Write(make([]byte, 64<<10)); err != nil {
				ended <- err
				<-ctx.Done() // the caller has gone
				return
			}
		}
	}))
	for name, row := range map[string]struct {
		handler http.Handler
		pause   time.Duration // between two bytes
		want    time.Duration
	}{
		"a stalled upload":   {upload, time.Hour, stallIn},
		"a slow upload":      {upload, stallIn - time.Second, uploadIn},
		"a stalled download": {export, 3 * time.Hour, stallIn},
		"a slow download":    {export, stallIn / 3, exportIn},
	} {
		synctest.Test(t, func(t *testing.T) {
			ended = make(chan error, 1)
			c, began := served(t, row.handler)(), time.Now()
			request(t, c, "PUT", "/", "x", octets)
			go func() {
				b := make([]byte, 1)
				for {
					time.Sleep(row.pause) // of the bubble's clock: nobody waits
					var err error
					if strings.Contains(name, "upload") {
						_, err = c.Write(b)
					} else {
						_, err = c.Read(make([]byte, 4096))
					}
					if err != nil {
						return
					}
				}
			}()
			err := <-ended
			if took := time.Since(began); err == nil || took < row.want || took > row.want+stallIn {
				t.Errorf("%s ended after %v (%v), want %v", name, took, err, row.want)
			}
			if p := (*problem)(nil); strings.Contains(name, "upload") && (!errors.As(err, &p) || p.slug != kindMalformed.slug) {
				t.Errorf("%s ended with %v", name, err)
			}
			_ = c.Close()
			time.Sleep(4 * time.Hour) // until everybody has noticed
		})
	}
}

// TestPatienceOverHTTP2: the same holds where a connection has many streams, and a deadline ends one whoever is slow.
func TestPatienceOverHTTP2(t *testing.T) {
	r := newRig(t)
	for name, row := range map[string]struct{ pause, want time.Duration }{
		"a stalled download": {3 * time.Hour, stallIn},
		"a slow download":    {stallIn / 3, exportIn},
	} {
		synctest.Test(t, func(t *testing.T) {
			ended := make(chan error, 1)
			client := over(t, true, r.server.observe(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				c := callOf(req.Context())
				_, cancel := c.longer(req.Context(), exportIn)
				defer cancel()
				out, err := &patientWriter{ResponseWriter: w, call: c}, error(nil)
				for err == nil {
					_, err = out.Write(make([]byte, 64<<10))
				}
				ended <- err
			})))
			began := time.Now()
			resp := ask(t, client, http.NoBody)
			tick := time.NewTicker(row.pause) // of the bubble's clock
			defer tick.Stop()
			for waiting := true; waiting; {
				select {
				case <-tick.C:
					_, err := resp.Body.Read(make([]byte, 4096))
					must(t, err)
				case err := <-ended:
					if took := time.Since(began); took < row.want || took > row.want+stallIn {
						t.Errorf("%s ended after %v (%v), want %v", name, took, err, row.want)
					}
					waiting = false
				}
			}
		})
	}
}

// TestOurSlownessCutsOffNobody: what takes long here is not the caller's stall.
func TestOurSlownessCutsOffNobody(t *testing.T) {
	r := newRig(t)
	for name, http2 := range map[string]bool{"HTTP/1": false, "HTTP/2": true} {
		synctest.Test(t, func(t *testing.T) {
			pause := func() { time.Sleep(3 * stallIn) } // of the bubble's clock
			client := over(t, http2, r.server.observe(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				c := callOf(req.Context())
				_, cancel := c.longer(req.Context(), uploadIn)
				defer cancel()
				in, out := patientReader{req.Body, c}, &patientWriter{ResponseWriter: w, call: c}
				first := make([]byte, 1)
				_, err := io.ReadFull(in, first)
				if err == nil {
					pause()
					first, err = io.ReadAll(in)
				}
				if err != nil || len(first) != 1 {
					t.Errorf("%s: the rest of the body is %q, %v", name, first, err)
				}
				for range 2 {
					if _, err := out.Write([]byte("x")); err != nil {
						t.Errorf("%s: %v", name, err)
					}
					_ = c.control.Flush()
					pause()
				}
			})))
			second := readerFunc(func(b []byte) (int, error) {
				time.Sleep(2 * stallIn) // while nobody reads
				return copy(b, "b"), io.EOF
			})
			resp := ask(t, client, io.MultiReader(strings.NewReader("a"), second))
			if got, err := io.ReadAll(resp.Body); err != nil || string(got) != "xx" {
				t.Errorf("%s: %q, %v", name, got, err)
			}
		})
	}
}

// TestAnAnswerThatNobodyFetches holds its connection no longer than a stall.
func TestAnAnswerThatNobodyFetches(t *testing.T) {
	r := newRig(t)
	synctest.Test(t, func(t *testing.T) {
		c := served(t, r.server.observe(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			c := callOf(req.Context())
			_, cancel := c.longer(req.Context(), exportIn)
			defer cancel()
			_, err := (&patientWriter{ResponseWriter: w, call: c}).Write([]byte("less than is buffered"))
			must(t, err)
		})))()
		request(t, c, "GET", "/", "x")
		time.Sleep(stallIn + time.Second) // of the bubble's clock
		if got, err := io.ReadAll(c); err != nil || len(got) != 0 {
			t.Errorf("after %v it is still sent: %.20q %v", stallIn, got, err)
		}
	})
}

// over makes a client of a handler that speaks one protocol.
func over(t *testing.T, http2 bool, h http.Handler) *http.Client {
	t.Helper()
	dial := served(t, h)
	transport := &http.Transport{Protocols: new(http.Protocols), DialContext: func(context.Context, string, string) (net.Conn, error) { return dial(), nil }}
	transport.Protocols.SetHTTP1(!http2)
	transport.Protocols.SetUnencryptedHTTP2(http2)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func ask(t *testing.T, client *http.Client, body io.Reader) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://siestad.test/", body)
	must(t, err)
	resp, err := client.Do(req)
	must(t, err)
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

// TestSlowCallersTakeNoConnection: with as many uploads and exports open as may be, all of them stalled, nothing of them
// holds a connection of the database, so that a release never waits for them; and one more is refused.
func TestSlowCallersTakeNoConnection(t *testing.T) {
	r := newRig(t)
	dial := served(t, r.api)
	aud := r.person("aud", "auditor")
	for i := range 40 { // an export larger than what the server buffers
		r.project(fmt.Sprintf("p%d", i), "x")
	}
	draft := func(who person) string {
		var img gen.Image
		r.want(201, who, "POST", "/v1/images", map[string]any{"name": "desktop"}).into(t, &img)
		return "/v1/images/" + img.ID + "/files/kernel"
	}
	idle := r.db.Stat().AcquiredConns() // the audit log's own

	for i := range exportsAll {
		who := r.person(fmt.Sprintf("aud%d", i), "auditor")
		c := dial()
		request(t, c, "GET", "/v1/audit/export", who.token)
		line, err := bufio.NewReaderSize(c, 16).ReadString('\n') // and not a byte more than it must
		if err != nil || !strings.HasPrefix(line, "HTTP/1.1 200 ") {
			t.Fatalf("export %d: %q %v", i, line, err)
		}
		if p := r.want(429, who, "GET", "/v1/audit/export", nil).problem(t); i == 0 && !strings.Contains(p.Detail, "You have") {
			t.Errorf("a second export of one caller: %s", p.Detail)
		}
	}
	if p := r.want(429, aud, "GET", "/v1/audit/export", nil).problem(t); p.RetryAfter == nil || *p.RetryAfter == 0 {
		t.Errorf("one export more: %+v", p)
	}
	for i := range uploadsAll {
		who := r.person(fmt.Sprintf("op%d", i/uploadsEach), "operator")
		c := dial()
		request(t, c, "PUT", draft(who), who.token, octets)
		_, err := c.Write(make([]byte, 64<<10)) // returns when the handler reads
		must(t, err)
		if i%uploadsEach == uploadsEach-1 {
			if p := r.want(429, who, "PUT", draft(who), "x", with("Content-Type", "application/octet-stream")).problem(t); !strings.Contains(p.Detail, "You have") {
				t.Errorf("one upload more of one caller: %s", p.Detail)
			}
		}
	}
	last := r.person("last", "operator")
	r.want(429, last, "PUT", draft(last), "x", with("Content-Type", "application/octet-stream"))

	if n := r.db.Stat().AcquiredConns(); n != idle {
		t.Errorf("%d connections are taken, %d before", n, idle)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := r.db.Exec(ctx, `SELECT 1`); err != nil {
		t.Errorf("a query beside them: %v", err)
	}
}

// TestUploadsOfOthersAreRefusedUnread, and audited.
func TestUploadsOfOthersAreRefusedUnread(t *testing.T) {
	r := newRig(t)
	op, other := r.person("op", "operator"), r.person("other", "operator")
	var img gen.Image
	r.want(201, op, "POST", "/v1/images", map[string]any{"name": "desktop"}).into(t, &img)
	path, octets := "/v1/images/"+img.ID+"/files/", with("Content-Type", "application/octet-stream")
	unread := func(req *http.Request) { req.Body = io.NopCloser(unreadable{t}) }

	p := r.want(403, other, "PUT", path+"kernel", "planted", octets, unread).problem(t)
	if p.Type != problemType+"not-author" || r.audited("image.upload", audit.Refused, "not-author") != 1 {
		t.Errorf("another's draft: %+v", p)
	}
	for _, file := range []string{"kernel", "initrd", "firmware"} {
		r.want(200, op, "PUT", path+file, file, octets)
	}
	r.want(200, op, "POST", "/v1/images/"+img.ID+"/register", nil)
	r.want(409, op, "PUT", path+"kernel", "changed", octets, unread)
	if n := r.audited("image.upload", audit.Refused, "wrong-state"); n != 1 {
		t.Errorf("%d entries for an upload to a registered image", n)
	}
}

// TestAnImageRegisteredDuringAnUpload refuses it at its end.
func TestAnImageRegisteredDuringAnUpload(t *testing.T) {
	r := newRig(t)
	op := r.person("op", "operator")
	var img gen.Image
	r.want(201, op, "POST", "/v1/images", map[string]any{"name": "desktop"}).into(t, &img)
	path, octets := "/v1/images/"+img.ID+"/files/", with("Content-Type", "application/octet-stream")
	for _, file := range []string{"kernel", "initrd", "firmware"} {
		r.want(200, op, "PUT", path+file, file, octets)
	}
	r.want(409, op, "PUT", path+"kernel", "changed", octets, func(req *http.Request) {
		req.Body = io.NopCloser(io.MultiReader(readerFunc(func([]byte) (int, error) {
			r.want(200, op, "POST", "/v1/images/"+img.ID+"/register", nil)
			return 0, io.EOF
		}), strings.NewReader("changed")))
	})
	if n := r.audited("image.upload", audit.Refused, "wrong-state"); n != 1 {
		t.Errorf("%d entries", n)
	}
}

// TestOfTwoUploadsToOneVersion the slower is refused: it would overwrite what its sender has not seen.
func TestOfTwoUploadsToOneVersion(t *testing.T) {
	r := newRig(t)
	op := r.person("op", "operator")
	created := r.want(201, op, "POST", "/v1/images", map[string]any{"name": "desktop"})
	var img gen.Image
	created.into(t, &img)
	path, octets := "/v1/images/"+img.ID+"/files/kernel", with("Content-Type", "application/octet-stream")
	during := func(tag, meanwhile, body string) option {
		return func(req *http.Request) {
			req.Header.Set("If-Match", tag)
			req.Body = io.NopCloser(io.MultiReader(readerFunc(func([]byte) (int, error) {
				r.want(200, op, "PUT", path, meanwhile, octets, with("If-Match", tag))
				return 0, io.EOF
			}), strings.NewReader(body)))
		}
	}
	r.want(412, op, "PUT", path, "x", octets, during(created.header.Get("ETag"), "fast", "the slower"))
	r.want(200, op, "GET", "/v1/images/"+img.ID, nil).into(t, &img)
	if img.Kernel == nil || img.Kernel.Size != int64(len("fast")) {
		t.Errorf("the kernel is %+v", img.Kernel)
	}
	r.want(200, op, "PUT", path, "x", octets, during("*", "fast again", "whatever stands there"))
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

type unreadable struct{ t *testing.T }

func (u unreadable) Read([]byte) (int, error) {
	u.t.Error("the body of a refused upload was read")
	return 0, io.EOF
}
