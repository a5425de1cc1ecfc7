// SPDX-License-Identifier: Apache-2.0
// Streams and events.
#include <chrono>

#include "runtime.h"

using namespace emulator;

namespace {

Event* event_of(cudaEvent_t event) { return reinterpret_cast<Event*>(event); }

}  // namespace

extern "C" {

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return with_devices([&](Devices& all) {
    *stream = reinterpret_cast<cudaStream_t>(all.make_stream(flags != cudaStreamNonBlocking));
    return cudaSuccess;
  });
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = *greatest = 0;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  return on_stream(handle, [](Devices& all, Stream* on) {
    all.destroy(on);
    return cudaSuccess;
  });
}
cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  return on_stream(handle, [](Devices& all, Stream* on) {
    all.finish(on);
    return cudaSuccess;
  });
}
cudaError_t cudaStreamQuery(cudaStream_t handle) {
  return on_stream(handle, [](Devices&, Stream* on) {
    return on->work.empty() ? cudaSuccess : cudaErrorNotReady;
  });
}
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
#if CUDART_VERSION >= 13000
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t, cudaStreamCaptureStatus* status,
                                     unsigned long long*, cudaGraph_t*, const cudaGraphNode_t**,
                                     const cudaGraphEdgeData**, std::size_t*) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
#endif
cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned) {
  return on_stream(handle, [&](Devices& all, Stream* on) {
    const Event until = *event_of(event);
    if (!all.is_alive(until.stream)) return cudaSuccess;  // destroyed streams have ended
    all.queue(on, [&all, until] {
      if (all.is_alive(until.stream)) all.finish(until.stream, until.after);
    });
    return cudaSuccess;
  });
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = reinterpret_cast<cudaEvent_t>(new Event);
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event_of(event);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle) {
  return on_stream(handle, [&](Devices& all, Stream* on) {
    Event& made = *event_of(event);
    made.stream = on;
    all.queue(on, [seconds = made.seconds] {
      const auto now = std::chrono::steady_clock::now().time_since_epoch();
      *seconds = std::chrono::duration<double>(now).count();
    });
    made.after = on->queued;
    return cudaSuccess;
  });
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t handle, unsigned) {
  return cudaEventRecord(event, handle);
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  const double seconds = *event_of(to)->seconds - *event_of(from)->seconds;
  *milliseconds = static_cast<float>(seconds * 1e3);
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  return with_devices([&](Devices& all) {
    const Event& at = *event_of(event);
    return !all.is_alive(at.stream) || at.stream->done >= at.after ? cudaSuccess
                                                                   : cudaErrorNotReady;
  });
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return with_devices([&](Devices& all) {
    const Event& at = *event_of(event);
    if (all.is_alive(at.stream)) all.finish(at.stream, at.after);
    return cudaSuccess;
  });
}
cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void* data) {
  return on_stream(handle, [&](Devices& all, Stream* on) {
    all.queue(on, [=] { function(data); });
    return cudaSuccess;
  });
}
}
