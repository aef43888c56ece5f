# Manual pages, from the tables in the program itself.
include(GNUInstallDirs)
set(pages)
foreach(page migstream.1 migrestore.1 migstream.yml.5)
  string(REGEX REPLACE "\\.[0-9]$" "" name ${page})
  string(REGEX MATCH "[0-9]$" section ${page})
  add_custom_command(OUTPUT ${PROJECT_BINARY_DIR}/man/${page}
    COMMAND ${CMAKE_COMMAND} -E make_directory ${PROJECT_BINARY_DIR}/man
    COMMAND sh -c "$<TARGET_FILE:migstream> help --man ${name} >${page}.new && mv ${page}.new ${page}"
    WORKING_DIRECTORY ${PROJECT_BINARY_DIR}/man DEPENDS migstream VERBATIM)
  list(APPEND pages ${PROJECT_BINARY_DIR}/man/${page})
  install(FILES ${PROJECT_BINARY_DIR}/man/${page} DESTINATION ${CMAKE_INSTALL_MANDIR}/man${section})
endforeach()
add_custom_target(man ALL DEPENDS ${pages})
