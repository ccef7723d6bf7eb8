package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Uploads and exports take as long as the caller's network does. Nobody gets that time before it is known who asks and
// that he or she may; meanwhile they hold no connection of the database, and are few.
const (
	answerIn = 30 * time.Second // everything else
	uploadIn = 30 * time.Minute
	exportIn = 2 * time.Hour
	stallIn  = 30 * time.Second // without a byte sent or taken
	lastWord = 5 * time.Second  // for the answer that says that time is up

	uploadsEach, uploadsAll = 2, 4
	exportsEach, exportsAll = 1, 4
)

// longer gives a request more time. The context that it returns ends with that time, or when the caller goes. What is still
// to be written after cancel is little, and has the time of a stall.
func (c *call) longer(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	c.deadline(time.Now().Add(limit))
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	stop := context.AfterFunc(c.conn, cancel)
	return ctx, func() {
		stop()
		cancel()
		_ = c.control.SetWriteDeadline(sooner(time.Now().Add(stallIn), c.until.Add(lastWord)))
	}
}

// deadline is set for the connection's both directions. Not every writer has deadlines (a test's recorder has none);
// those of net/http do.
func (c *call) deadline(until time.Time) {
	c.until = until
	_ = c.control.SetReadDeadline(until)
	_ = c.control.SetWriteDeadline(until.Add(lastWord))
}

// patientReader reads a body whose sender may take until the call's deadline and may not stall. How long we take between two
// reads is not the sender's fault; over HTTP/2 a deadline that passes then would end the body all the same.
type patientReader struct {
	body io.Reader
	call *call
}

func (r patientReader) Read(b []byte) (int, error) {
	_ = r.call.control.SetReadDeadline(sooner(time.Now().Add(stallIn), r.call.until))
	n, err := r.body.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, kindMalformed.because("The body could not be read to its end.")
	}
	_ = r.call.control.SetReadDeadline(r.call.until) // after the end, too: net/http goes on reading, to see whether the caller stays
	return n, err
}

// patientWriter writes an answer whose reader may take until the call's deadline and may not stall. It writes in pieces, for
// a deadline holds for the whole of a write: a reader that takes a piece in that time is slow and moves. Between writes it
// is we who are slow; over HTTP/2 a deadline that passes then would end the answer all the same.
type patientWriter struct {
	http.ResponseWriter
	call  *call
	begun bool
}

const pieceSize = 4 << 10

func (w *patientWriter) Write(b []byte) (n int, err error) {
	w.begun = true
	for piece := range slices.Chunk(b, pieceSize) {
		_ = w.call.control.SetWriteDeadline(sooner(time.Now().Add(stallIn), w.call.until))
		m, err := w.ResponseWriter.Write(piece)
		if n += m; err != nil {
			return n, err
		}
	}
	_ = w.call.control.SetWriteDeadline(w.call.until.Add(lastWord))
	return n, nil
}

func sooner(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// slots bounds how many of one kind are under way, for each caller and in all.
type slots struct {
	kind      string
	each, all int

	mu   sync.Mutex
	held map[string]int
	sum  int
}

func newSlots(kind string, each, all int) *slots {
	return &slots{kind: kind, each: each, all: all, held: map[string]int{}}
}

// take returns what gives the slot back.
func (s *slots) take(subject string) (release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := kindRate.because(fmt.Sprintf("%d %ss are under way, as many as this service carries at once.", s.sum, s.kind))
	if s.held[subject] >= s.each {
		p = kindRate.because(fmt.Sprintf("You have %d %ss under way, as many as one caller may.", s.each, s.kind))
	} else if s.sum < s.all {
		s.held[subject]++
		s.sum++
		return func() { s.giveBack(subject) }, nil
	}
	p.retry = int(stallIn.Seconds())
	return nil, p
}

func (s *slots) giveBack(subject string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sum--
	if s.held[subject]--; s.held[subject] == 0 {
		delete(s.held, subject)
	}
}
