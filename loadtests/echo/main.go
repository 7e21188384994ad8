// Echo stands where a very fast model server would: it answers every prediction with the same
// bytes, over HTTP/1.1 and gRPC (h2c), and says that version 1 of any model is AVAILABLE. So what
// is in front of it is measured, not what it computes.
//
//	echo --http 127.0.0.1:8501 --grpc 127.0.0.1:8500 --http-answer a.json --grpc-answer a.pb
package main

import (
	"encoding/binary"
	"flag"
	"io"
	"log"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c"
)

const (
	modelService = "/tensorflow.serving.ModelService/"
	predict      = "/tensorflow.serving.PredictionService/Predict"
)

var (
	// GetModelStatusResponse: version 1, AVAILABLE (30), an empty status.
	available = frame([]byte{0x0a, 0x06, 0x08, 0x01, 0x10, 0x1e, 0x1a, 0x00})
	// ReloadConfigResponse: an empty status, which is OK.
	reloaded = frame([]byte{0x0a, 0x00})

	buffers = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}
)

func main() {
	httpAt := flag.String("http", "", "HTTP/1.1 address")
	grpcAt := flag.String("grpc", "", "gRPC address (HTTP/2 by prior knowledge)")
	httpAnswer := flag.String("http-answer", "", "file: the JSON answer of every :predict")
	grpcAnswer := flag.String("grpc-answer", "", "file: the PredictResponse of every Predict")
	flag.Parse()
	runtime.GOMAXPROCS(1) // it shares the machine with what is measured
	json := read(*httpAnswer)
	message := frame(read(*grpcAnswer))
	go func() {
		log.Fatal(http.ListenAndServe(*httpAt, restHandler(json)))
	}()
	h2 := &http2.Server{MaxConcurrentStreams: 1000}
	log.Fatal(http.ListenAndServe(*grpcAt, h2c.NewHandler(grpcHandler(message), h2)))
}

func restHandler(answer []byte) http.Handler {
	length := strconv.Itoa(len(answer))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			http.Error(w, `{ "error": "Malformed request" }`, http.StatusNotFound)
			return
		}
		drain(r.Body)
		w.Header()["Content-Type"] = []string{"application/json"}
		w.Header()["Content-Length"] = []string{length}
		w.Write(answer)
	})
}

func grpcHandler(answer []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		drain(r.Body)
		head := w.Header()
		head["Content-Type"] = []string{"application/grpc"}
		switch r.URL.Path {
		case predict:
			w.Write(answer)
		case modelService + "GetModelStatus":
			w.Write(available)
		case modelService + "HandleReloadConfigRequest":
			w.Write(reloaded)
		default:
			head["Grpc-Status"] = []string{"12"}
			head["Grpc-Message"] = []string{"not offered"}
			return
		}
		head[http.TrailerPrefix+"Grpc-Status"] = []string{"0"}
	})
}

func drain(body io.Reader) {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	for {
		if _, err := body.Read(*buffer); err != nil {
			return
		}
	}
}

// frame puts gRPC's five bytes before a message.
func frame(message []byte) []byte {
	framed := make([]byte, 5, 5+len(message))
	binary.BigEndian.PutUint32(framed[1:], uint32(len(message)))
	return append(framed, message...)
}

func read(path string) []byte {
	data, err := os.ReadFile(path)
	if err != nil {
		log.Fatal(err)
	}
	return data
}
