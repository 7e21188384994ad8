package main

import (
	"bytes"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2 sends gRPC calls over HTTP/2 by prior knowledge, in turn on each connection. A call for which
// the flow-control window is too small, or for which there are too many others under way, waits, and
// the wait counts.
type h2 struct {
	conns []*h2Conn
	next  int
}

type h2Conn struct {
	net.Conn
	records *recorder
	path    string
	host    string
	body    []byte

	mu       sync.Mutex
	framer   *http2.Framer
	out      *bytes.Buffer
	block    bytes.Buffer
	encoder  *hpack.Encoder
	stream   uint32
	window   int64
	perCall  int64
	atOnce   int
	waiting  []time.Time
	due      map[uint32]shot
	answers  map[uint32][]byte // as far as they have come, where they are kept
	unacked  uint32
	isClosed bool
	dead     string
}

const maxFrame = 16384

func newH2(address, path string, body []byte, connections int, records *recorder) (*h2, error) {
	s := &h2{}
	for i := 0; i < connections; i++ {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return nil, err
		}
		c := &h2Conn{
			Conn: conn, records: records, path: path, host: address, body: body, out: &bytes.Buffer{},
			stream: 1, window: 65535, perCall: 65535, atOnce: 1 << 30, due: map[uint32]shot{}, answers: map[uint32][]byte{},
		}
		c.encoder = hpack.NewEncoder(&c.block)
		c.framer = http2.NewFramer(c.out, conn)
		c.framer.SetReuseFrames()
		c.out.WriteString(http2.ClientPreface)
		c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 24})
		c.framer.WriteWindowUpdate(0, 1<<24)
		c.flush()
		s.conns = append(s.conns, c)
		go c.read()
	}
	return s, nil
}

func (s *h2) send(due time.Time) {
	c := s.conns[s.next]
	s.next = (s.next + 1) % len(s.conns)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead != "" {
		c.records.failed(shot{due, time.Now()}, c.dead)
		return
	}
	c.waiting = append(c.waiting, due)
	c.begin()
	c.flush()
}

func (s *h2) close() {
	for _, c := range s.conns {
		c.mu.Lock()
		c.isClosed = true
		c.mu.Unlock()
		c.Close()
	}
}

// begin writes the calls that wait, as far as the other side lets it. Under mu.
func (c *h2Conn) begin() {
	size := int64(len(c.body))
	for len(c.waiting) > 0 && len(c.due) < c.atOnce && c.window >= size && c.perCall >= size {
		c.due[c.stream] = shot{c.waiting[0], time.Now()}
		c.waiting = c.waiting[1:]
		c.window -= size
		c.block.Reset()
		for _, f := range [][2]string{
			{":method", "POST"}, {":scheme", "http"}, {":path", c.path}, {":authority", c.host},
			{"content-type", "application/grpc"}, {"user-agent", "openloop"}, {"te", "trailers"},
		} {
			c.encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
		}
		c.framer.WriteHeaders(http2.HeadersFrameParam{
			StreamID: c.stream, BlockFragment: c.block.Bytes(), EndHeaders: true,
		})
		for rest := c.body; ; {
			n := len(rest)
			if n > maxFrame {
				n = maxFrame
			}
			c.framer.WriteData(c.stream, n == len(rest), rest[:n])
			if rest = rest[n:]; len(rest) == 0 {
				break
			}
		}
		c.stream += 2
	}
}

// flush sends what was written, in one piece. Under mu, or before anyone else has the connection.
func (c *h2Conn) flush() {
	if c.out.Len() > 0 {
		c.Write(c.out.Bytes()) // if it fails, read fails as well
		c.out.Reset()
	}
}

func (c *h2Conn) read() {
	ended := ""
	decoder := hpack.NewDecoder(4096, nil)
	var block []byte
	for ended == "" {
		frame, err := c.framer.ReadFrame()
		if err != nil {
			ended = "connection: " + err.Error()
			break
		}
		c.mu.Lock()
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			c.settings(f)
		case *http2.PingFrame:
			if !f.IsAck() {
				c.framer.WritePing(true, f.Data)
			}
		case *http2.WindowUpdateFrame:
			if f.StreamID == 0 {
				c.window += int64(f.Increment)
				c.begin()
			}
		case *http2.DataFrame:
			c.unacked += f.Length
			if c.records.kept != nil {
				c.answers[f.StreamID] = append(c.answers[f.StreamID], f.Data()...)
			}
			if c.unacked > 1<<23 {
				c.framer.WriteWindowUpdate(0, c.unacked)
				c.unacked = 0
			}
		case *http2.HeadersFrame:
			block = append(block[:0], f.HeaderBlockFragment()...)
			if !f.HeadersEnded() {
				ended = "an answer's header block in several frames"
			} else if fields, err := decoder.DecodeFull(block); err != nil {
				ended = err.Error()
			} else if f.StreamEnded() {
				c.ended(f.StreamID, fields)
			}
		case *http2.RSTStreamFrame:
			c.settle(f.StreamID, "stream reset: "+f.ErrCode.String())
		case *http2.GoAwayFrame:
			ended = "goaway"
		}
		c.flush()
		c.mu.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.isClosed {
		c.dead = ended
		for _, one := range c.due {
			c.records.failed(one, ended)
		}
		for _, due := range c.waiting {
			c.records.failed(shot{due, time.Now()}, ended)
		}
	}
}

func (c *h2Conn) settings(f *http2.SettingsFrame) {
	if f.IsAck() {
		return
	}
	if v, ok := f.Value(http2.SettingInitialWindowSize); ok {
		c.perCall = int64(v)
	}
	if v, ok := f.Value(http2.SettingMaxConcurrentStreams); ok {
		c.atOnce = int(v)
	}
	if v, ok := f.Value(http2.SettingHeaderTableSize); ok {
		c.encoder.SetMaxDynamicTableSizeLimit(v)
	}
	c.framer.WriteSettingsAck()
	c.begin()
}

func (c *h2Conn) ended(stream uint32, trailers []hpack.HeaderField) {
	status, message := "", ""
	for _, f := range trailers {
		switch f.Name {
		case "grpc-status":
			status = f.Value
		case "grpc-message":
			message = f.Value
		}
	}
	if status == "0" {
		c.settle(stream, "")
	} else {
		c.settle(stream, "grpc-status "+status+" "+message)
	}
}

func (c *h2Conn) settle(stream uint32, failure string) {
	one, ok := c.due[stream]
	if !ok {
		return
	}
	answer := c.answers[stream]
	delete(c.due, stream)
	delete(c.answers, stream)
	c.begin()
	if failure == "" {
		c.records.answered(one, answer)
	} else {
		c.records.failed(one, failure)
	}
}
