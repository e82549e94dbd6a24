// Exceptions must not leave a C function: ctypes cannot pass them on, and the process would end.
//
//   extern "C" const char* kernel(...) try { ...; return nullptr; } catch (...) { return caught(); }
#pragma once
#include <algorithm>
#include <cstring>
#include <exception>

// The first line of the exception that is being handled, valid until this thread's next call.
// at::parallel_for throws an exception of any of its threads again, on the calling thread.
static const char* caught() noexcept {
  static thread_local char text[256];
  auto keep = [&](const char* what) {
    const size_t n = std::min(strcspn(what, "\n"), sizeof text - 1);  // torch appends a backtrace
    memcpy(text, what, n);
    text[n] = 0;
    return text;
  };
  try {
    throw;
  } catch (const std::exception& e) {
    return keep(e.what());
  } catch (...) {
    return keep("unknown C++ exception");
  }
}
