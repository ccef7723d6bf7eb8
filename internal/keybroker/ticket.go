package keybroker

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/eosc-siesta/siestad/internal/door"
)

// ticket is all that a challenge stands for. It is not stored: the challenge says it itself, under a code of the broker's
// key, and its nonce follows from it. So asking leaves nothing behind that could be used up or pushed out, and what this
// installation never gave to anybody is refused without a look into the database. A row is written when it is used.
type ticket struct {
	id         string
	workspace  string
	generation int
	epoch      int // of the arming
	purpose    door.Purpose
	expires    time.Time // whole seconds, by the database's clock
}

// Labels of what is derived from the broker's key, and with that key from a ticket.
const (
	challengeLabel = "siesta/challenge-key/v1"
	ticketLabel    = "siesta/challenge-ticket/v1"
	nonceLabel     = "siesta/challenge-nonce/v1"
)

// text is the ticket without its code. The workspace stands last, for it may have any character of an id.
func (t ticket) text() string {
	return fmt.Sprintf("%s.%d.%d.%s.%d.%s", t.id, t.generation, t.epoch, t.purpose, t.expires.Unix(), t.workspace)
}

func (b *Broker) derive(label, text string) []byte {
	h := hmac.New(sha256.New, b.challengeKey)
	h.Write(door.LP([]byte(label), []byte(text)))
	return h.Sum(nil)
}

// code is 130 bits of an HMAC in the alphabet of ids.
func (b *Broker) code(text string) string {
	return strings.ToLower(base32.StdEncoding.EncodeToString(b.derive(ticketLabel, text))[:26])
}

// issue returns a ticket as a challenge, and its nonce, which nobody can tell beforehand.
func (b *Broker) issue(t ticket) (challenge string, nonce []byte) {
	text := t.text()
	return text + "." + b.code(text), b.derive(nonceLabel, text)
}

// ticket reads a challenge; false if it is none of ours. Whether it is used or has run out, only the database knows.
func (b *Broker) ticket(challenge string) (t ticket, nonce []byte, ok bool) {
	cut := strings.LastIndexByte(challenge, '.')
	if cut < 0 || !hmac.Equal([]byte(challenge[cut+1:]), []byte(b.code(challenge[:cut]))) {
		return ticket{}, nil, false
	}
	text := challenge[:cut]
	fields := strings.SplitN(text, ".", 6)
	if len(fields) != 6 {
		return ticket{}, nil, false
	}
	var err [3]error
	var expires int64
	t = ticket{id: fields[0], purpose: door.Purpose(fields[3]), workspace: fields[5]}
	t.generation, err[0] = strconv.Atoi(fields[1])
	t.epoch, err[1] = strconv.Atoi(fields[2])
	expires, err[2] = strconv.ParseInt(fields[4], 10, 64)
	if err != [3]error{} {
		return ticket{}, nil, false
	}
	t.expires = time.Unix(expires, 0).UTC()
	return t, b.derive(nonceLabel, text), true
}
