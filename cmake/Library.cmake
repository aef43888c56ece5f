# libmigstream.{a,so}: everything but the programs, for engines (cmd/observer.h) and backends from outside (replicas/replica.h).
# The shared one exports ms_* only. Installed headers keep their folders: #include "replicas/replica.h" with -I<prefix>/include/migstream.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(folders ms_base ms_core ms_sources ms_replicas ms_restore ms_config ms_cmd)
set(objects)
foreach(folder ${folders})
  list(APPEND objects $<TARGET_OBJECTS:${folder}>)
endforeach()
# What the folders link, by CMake and by pkg-config.
set(libraries PkgConfig::UV PkgConfig::ZSTD PkgConfig::CBOR PkgConfig::ISAL PkgConfig::SQLITE PkgConfig::FYAML PkgConfig::JANSSON PkgConfig::EXPAT PkgConfig::MHD PkgConfig::SSH2
  PkgConfig::NATS CURL::libcurl OpenSSL::Crypto Threads::Threads)
set(MS_PC_REQUIRES "libuv libzstd libcbor libisal sqlite3 libfyaml jansson expat libmicrohttpd libssh2 libnats libcurl libcrypto")

file(WRITE ${PROJECT_BINARY_DIR}/migstream.map "{ global: ms_*; local: *; };\n")
add_library(libmigstream_static STATIC ${objects})
add_library(libmigstream_shared SHARED ${objects})
foreach(lib libmigstream_static libmigstream_shared)
  set_target_properties(${lib} PROPERTIES OUTPUT_NAME migstream LINKER_LANGUAGE C)
endforeach()
set_target_properties(libmigstream_shared PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION 0 LINK_DEPENDS ${PROJECT_BINARY_DIR}/migstream.map)
target_link_libraries(libmigstream_shared PRIVATE ms_flags ${libraries})
target_link_options(libmigstream_shared PRIVATE -Wl,--version-script=${PROJECT_BINARY_DIR}/migstream.map)
if(NOT MS_SANITIZE)
  target_link_options(libmigstream_shared PRIVATE -Wl,--no-undefined)
endif()

install(TARGETS migstream migrestore RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS libmigstream_static libmigstream_shared LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
foreach(header base/err.h base/buf.h base/env.h core/types.h core/journal.h replicas/replica.h sources/source.h sources/push.h cmd/observer.h cmd/programs.h)
  get_filename_component(folder ${header} DIRECTORY)
  install(FILES ${PROJECT_SOURCE_DIR}/${header} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/migstream/${folder})
endforeach()

# Both package files find their way from where they lie: a tree that was moved, or installed with --prefix, works.
file(RELATIVE_PATH MS_PC_PREFIX /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
foreach(pc migstream.pc migstream-static.pc)
  configure_file(${PROJECT_SOURCE_DIR}/cmake/${pc}.in ${PROJECT_BINARY_DIR}/${pc} @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/${pc} DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endforeach()
set(MS_INSTALL_INCLUDES ${CMAKE_INSTALL_INCLUDEDIR}/migstream)
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/migstream-config.cmake.in ${PROJECT_BINARY_DIR}/migstream-config.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/migstream PATH_VARS MS_INSTALL_INCLUDES CMAKE_INSTALL_LIBDIR)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/migstream-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/migstream-config.cmake ${PROJECT_BINARY_DIR}/migstream-config-version.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/migstream)
