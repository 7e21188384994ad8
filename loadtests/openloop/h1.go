package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"
)

// h1 sends over HTTP/1.1, one request at a time on each connection. A request that finds no free
// connection waits for one, and the wait counts.
type h1 struct {
	request []byte
	records *recorder
	mu      sync.Mutex
	free    []*h1Conn
	waiting []time.Time
	all     []net.Conn
	address string
	most    int
	alive   int
}

type h1Conn struct {
	net.Conn
	due chan shot
}

func newH1(address, path, contentType string, body []byte, connections int, records *recorder) (*h1, error) {
	var request bytes.Buffer
	fmt.Fprintf(&request, "POST %s HTTP/1.1\r\nHost: %s\r\n", path, address)
	fmt.Fprintf(&request, "Content-Type: %s\r\nContent-Length: %d\r\n\r\n", contentType, len(body))
	request.Write(body)
	s := &h1{request: request.Bytes(), records: records}
	s.address, s.most = address, connections
	for i := 0; i < connections; i++ {
		c, err := s.open()
		if err != nil {
			return nil, err
		}
		s.free = append(s.free, c)
	}
	return s, nil
}

func (s *h1) open() (*h1Conn, error) {
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		return nil, err
	}
	c := &h1Conn{conn, make(chan shot, 1)}
	s.all = append(s.all, conn)
	s.alive++
	go s.read(c)
	return c, nil
}

// died takes out a connection that has closed; whether it was free, and nothing is lost.
func (s *h1) died(c *h1Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.alive--
	for i, one := range s.free {
		if one == c {
			s.free = append(s.free[:i], s.free[i+1:]...)
			return true
		}
	}
	return false
}

func (s *h1) send(due time.Time) {
	s.mu.Lock()
	if len(s.free) == 0 && s.alive < s.most {
		// Servers close connections that nothing was sent on for long.
		if c, err := s.open(); err == nil {
			s.mu.Unlock()
			s.write(c, due)
			return
		}
	}
	if len(s.free) == 0 {
		s.waiting = append(s.waiting, due)
		s.mu.Unlock()
		return
	}
	c := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	s.mu.Unlock()
	s.write(c, due)
}

func (s *h1) write(c *h1Conn, due time.Time) {
	c.due <- shot{due, time.Now()}
	if _, err := c.Write(s.request); err != nil {
		c.Close() // read tells it
	}
}

// read takes answers of one connection until it closes.
func (s *h1) read(c *h1Conn) {
	in := bufio.NewReaderSize(c, 64<<10)
	var answer bytes.Buffer
	for {
		answer.Reset()
		keep := &answer
		if s.records.kept == nil {
			keep = nil
		}
		err := readAnswer(in, keep)
		if errors.Is(err, errClosed) && s.died(c) {
			return
		}
		one := <-c.due
		if err != nil {
			s.records.failed(one, err.Error())
			if !errors.As(err, new(badStatus)) {
				return // the connection is of no use; a run with failures fails
			}
		} else {
			s.records.answered(one, answer.Bytes())
		}
		s.mu.Lock()
		if len(s.waiting) == 0 {
			s.free = append(s.free, c)
			s.mu.Unlock()
			continue
		}
		next := s.waiting[0]
		s.waiting = s.waiting[1:]
		s.mu.Unlock()
		s.write(c, next)
	}
}

func (s *h1) close() {
	for _, conn := range s.all {
		conn.Close()
	}
}

type badStatus string

func (b badStatus) Error() string { return string(b) }

var errClosed = errors.New("connection closed")

// readAnswer reads one whole answer that has a content-length. Where it is kept: the version that it
// names, a newline, and the body.
func readAnswer(in *bufio.Reader, keep *bytes.Buffer) error {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return errClosed
	}
	status := ""
	if len(line) >= 12 {
		status = string(line[9:12])
	}
	length := -1
	for {
		line, err = in.ReadSlice('\n')
		if err != nil {
			return errClosed
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		if i := bytes.IndexByte(line, ':'); i > 0 && bytes.EqualFold(line[:i], []byte("content-length")) {
			length, err = strconv.Atoi(string(bytes.TrimSpace(line[i+1:])))
			if err != nil {
				return err
			}
		} else if keep != nil && i > 0 && bytes.EqualFold(line[:i], []byte("x-gateway-version")) {
			keep.Write(bytes.TrimSpace(line[i+1:]))
		}
	}
	if length < 0 {
		return errors.New("an answer without content-length")
	}
	var body io.Writer = io.Discard
	if keep != nil {
		keep.WriteByte('\n')
		body = keep
	}
	if _, err = io.CopyN(body, in, int64(length)); err != nil {
		return errClosed
	}
	if status != "200" {
		if keep != nil {
			return badStatus("status " + status + ": " + keep.String())
		}
		return badStatus("status " + status)
	}
	return nil
}
