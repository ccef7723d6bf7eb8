//go:build devtee

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// runClient sends prepared HTTP requests and keeps the answers' bodies. It parses as little as it can: on a machine where
// it shares the cores with the server, its own cost is part of KR2.
func runClient(ctx context.Context, args []string) error {
	if len(args) != 5 {
		return errors.New("client: address, requests, answers, connections, wanted status")
	}
	connections, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	data, err := os.ReadFile(args[1]) //nolint:gosec // the parent process chose the path
	if err != nil {
		return err
	}
	var requests [][]byte
	for len(data) >= 4 {
		n := int(binary.BigEndian.Uint32(data))
		requests = append(requests, data[4:4+n])
		data = data[4+n:]
	}
	answers := make([][]byte, len(requests))
	errs := make([]error, connections)
	next := make(chan int, len(requests))
	for i := range requests {
		next <- i
	}
	close(next)
	var wg sync.WaitGroup
	begin := time.Now()
	for i := range connections {
		wg.Add(1)
		go func() {
			defer wg.Done()
			errs[i] = talk(ctx, args[0], args[4], requests, answers, next)
		}()
	}
	wg.Wait()
	wall := time.Since(begin)
	if err := errors.Join(errs...); err != nil {
		return err
	}
	var out bytes.Buffer
	for _, a := range answers {
		_ = binary.Write(&out, binary.BigEndian, uint32(len(a)))
		out.Write(a)
	}
	if err := os.WriteFile(args[2], out.Bytes(), 0o600); err != nil { //nolint:gosec // the parent process chose the path
		return err
	}
	fmt.Println(int64(wall))
	return nil
}

func talk(ctx context.Context, address, want string, requests, answers [][]byte, next <-chan int) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	r := bufio.NewReaderSize(conn, 64<<10)
	for i := range next {
		if _, err := conn.Write(requests[i]); err != nil {
			return err
		}
		status, err := r.ReadString('\n')
		if err != nil {
			return err
		}
		length := 0
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return err
			}
			if line == "\r\n" {
				break
			}
			if v, ok := strings.CutPrefix(line, "Content-Length: "); ok {
				if length, err = strconv.Atoi(strings.TrimSpace(v)); err != nil {
					return err
				}
			}
		}
		answers[i] = make([]byte, length)
		if _, err := io.ReadFull(r, answers[i]); err != nil {
			return err
		}
		if !strings.HasPrefix(status, "HTTP/1.1 "+want) {
			return fmt.Errorf("request %d: %s %s", i, strings.TrimSpace(status), answers[i])
		}
	}
	return nil
}

// request is the bytes of one POST.
func request(path string, body []byte) []byte {
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", path, len(body))
	return append([]byte(head), body...)
}

func writeRequests(path string, requests [][]byte) error {
	var out bytes.Buffer
	for _, r := range requests {
		_ = binary.Write(&out, binary.BigEndian, uint32(len(r)))
		out.Write(r)
	}
	return os.WriteFile(path, out.Bytes(), 0o600)
}

func readAnswers(path string) ([][]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var list [][]byte
	for len(data) >= 4 {
		n := int(binary.BigEndian.Uint32(data))
		list = append(list, data[4:4+n])
		data = data[4+n:]
	}
	return list, nil
}
